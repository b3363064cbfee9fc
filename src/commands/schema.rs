//! JSON Schemas of stage and inventory files, from the types that read them.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::checks::registry as check_registry;
use crate::project::Inventory;
use crate::resources::registry;

/// Schema of `stages/*.yml`.
pub fn stage() -> Value {
    let mut generator = SchemaSettings::draft07().into_generator();
    let path = json!({"type": "string", "description": "Path of a value of the inventory, like ufw.enabled"});
    let resources = entries(
        registry::KINDS.iter().map(|kind| (kind.name, kind.schema(&mut generator).to_value())).collect(),
        &json!({"when": path, "for_each": path}),
    );
    let checks = entries(
        check_registry::KINDS.iter().map(|kind| (kind.name, kind.schema(&mut generator).to_value())).collect(),
        &json!({"when": path, "for_each": path, "within": {"type": "integer", "description": "Seconds until up gives up (120)"}}),
    );
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A stage of provision",
        "type": "object",
        "required": ["stage"],
        "additionalProperties": false,
        "properties": {
            "stage": {"type": "string", "description": "Its name: the file's name without .yml"},
            "summary": {"type": "string", "description": "One line for people"},
            "layer": {"type": "string", "description": "Group in healthcheck; default: the stage's name"},
            "needs": {"type": "array", "items": {"type": "string"}, "description": "Stages that must be done first"},
            "when": path,
            "resources": {"type": "array", "items": {"oneOf": resources}},
            "checks": {"type": "array", "items": {"oneOf": checks}},
            "endpoints": {"type": "array", "items": {"type": "object"}, "description": "Addresses to show: name: url"},
            "not_images": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Texts that look like names of images and are none: a bundle need not have them",
            },
        },
        "definitions": definitions(generator),
    })
}

/// Schema of `inventory/*.yml`.
pub fn inventory() -> Value {
    SchemaSettings::draft07().into_generator().into_root_schema_for::<Inventory>().to_value()
}

/// One alternative per kind. Strings with `{{ … }}` stand for values of any type, so types are not enforced inside templates.
fn entries(kinds: Vec<(&str, Value)>, flow: &Value) -> Vec<Value> {
    kinds
        .into_iter()
        .map(|(name, spec)| {
            let mut properties = flow.clone();
            properties[name] = spec;
            json!({"type": "object", "required": [name], "additionalProperties": false, "properties": properties})
        })
        .collect()
}

fn definitions(mut generator: SchemaGenerator) -> Value {
    Value::Object(generator.take_definitions(true).into_iter().collect())
}
