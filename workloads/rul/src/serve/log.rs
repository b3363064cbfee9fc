//! One JSON line per event on stderr. Requests are counted, not logged.

use std::io::Write;

use serde_json::{Map, Value, json};

/// `fields` is an object; its keys follow `at`, `level` and `event`.
pub fn event(level: &str, event: &str, fields: Value) {
    // Thousands of requests a second would fill the disk.
    if cfg!(fuzzing) {
        return;
    }
    let mut line = Map::new();
    line.insert("at".into(), json!(jiff::Timestamp::now().to_string()));
    line.insert("level".into(), json!(level));
    line.insert("event".into(), json!(event));
    if let Value::Object(fields) = fields {
        line.extend(fields);
    }
    // Nobody reads stderr: nothing to be done about it.
    let _ = writeln!(std::io::stderr().lock(), "{}", Value::Object(line));
}

pub fn info(name: &str, fields: Value) {
    event("info", name, fields);
}

pub fn warn(name: &str, fields: Value) {
    event("warn", name, fields);
}
