//! Templates: Tera with strict variables, and errors that name the template's line and column.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};
use tera::{Context, Kwargs, State, Tera};

use super::filters;
use super::yaml::{Data, Node};
use crate::diagnostic::{Diagnostic, Place};

/// Renders templates of the project and strings of stage files.
pub struct Renderer {
    tera: Tera,
}

impl Renderer {
    /// Loads every file below `templates/`; names are relative to it.
    ///
    /// # Errors
    /// Syntax errors, with their place.
    pub fn load(templates: &Path) -> Result<Self, Vec<Diagnostic>> {
        let mut tera = Tera::default();
        tera.autoescape_on(Vec::<&str>::new());
        filters::register(&mut tera);
        tera.register_filter("fingerprint", |text: &str, _: Kwargs, _: &State| fingerprint(text));
        let mut faults = Vec::new();
        for name in files_below(templates).unwrap_or_default() {
            let path = templates.join(&name);
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    if let Err(error) = tera.add_raw_template(&name, &text) {
                        faults.push(diagnostic(&format!("templates/{name}"), &error));
                    }
                }
                Err(error) => faults.push(Diagnostic::new(format!("templates/{name}: {error}"))),
            }
        }
        if faults.is_empty() { Ok(Self { tera }) } else { Err(faults) }
    }

    /// Whether there is a template of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tera.contains_template(name)
    }

    /// Names of all templates.
    pub fn names(&self) -> Vec<String> {
        self.tera.get_template_names().map(str::to_owned).collect()
    }

    /// Renders a template.
    ///
    /// # Errors
    /// An undefined variable or a wrong type, with the place in the template.
    pub fn template(&self, name: &str, context: &Map<String, Value>) -> Result<String, Diagnostic> {
        let file = format!("templates/{name}");
        let context = Context::from_serialize(context).map_err(|error| diagnostic(&file, &error))?;
        self.tera.render(name, &context).map_err(|error| diagnostic(&file, &error))
    }

    /// Renders every string in `node`. A string that is nothing but `{{ a.path }}` keeps the type of the value.
    ///
    /// # Errors
    /// Everything that does not render, each with the place of its string.
    pub fn node(&self, node: &Node, context: &Map<String, Value>) -> Result<Node, Vec<Diagnostic>> {
        let mut faults = Vec::new();
        let rendered = self.walk(node, context, &mut faults);
        if faults.is_empty() { Ok(rendered) } else { Err(faults) }
    }

    fn walk(&self, node: &Node, context: &Map<String, Value>, faults: &mut Vec<Diagnostic>) -> Node {
        match &node.data {
            Data::String(text) if text.contains("{{") || text.contains("{%") => {
                match self.text(text, &node.place, context) {
                    Ok(value) => Node::from_json(&value, &node.place),
                    Err(fault) => {
                        faults.push(fault);
                        node.clone()
                    }
                }
            }
            Data::List(items) => {
                let items = items.iter().map(|item| self.walk(item, context, faults)).collect();
                Node { place: node.place.clone(), data: Data::List(items) }
            }
            Data::Map(entries) => {
                let entries =
                    entries.iter().map(|(key, value)| (key.clone(), self.walk(value, context, faults))).collect();
                Node { place: node.place.clone(), data: Data::Map(entries) }
            }
            _ => node.clone(),
        }
    }

    fn text(&self, text: &str, place: &Place, context: &Map<String, Value>) -> Result<Value, Diagnostic> {
        if let Some(value) = lone_path(text).and_then(|path| lookup(context, path)) {
            return Ok(value.clone());
        }
        let context = Context::from_serialize(context).map_err(|error| Diagnostic::new(error.to_string()))?;
        self.tera.render_str(text, &context, false).map(Value::String).map_err(|error| {
            let inner = diagnostic("", &error);
            Diagnostic { place: Some(place.clone()), message: inner.message, hint: inner.hint }
        })
    }
}

/// 16 hex digits that change with a text and do not tell what it is: for the annotation of a pod that reads a secret when it
/// starts, so that a changed secret starts exactly those pods again. It is slow on purpose: whoever may look at pods could try
/// out short passwords otherwise.
fn fingerprint(text: &str) -> String {
    const ROUNDS: std::num::NonZeroU32 = std::num::NonZeroU32::MIN.saturating_add(99_999);
    let mut out = [0; 8];
    let salt = b"provision fingerprint 1";
    ring::pbkdf2::derive(ring::pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, text.as_bytes(), &mut out);
    hex::encode(out)
}

/// The path in `{{ a.path }}`, when the string is nothing else.
fn lone_path(text: &str) -> Option<&str> {
    let path = text.trim().strip_prefix("{{")?.strip_suffix("}}")?.trim();
    let plain = !path.is_empty() && path.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    plain.then_some(path)
}

/// The value at a dotted path.
pub fn lookup<'a>(context: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let mut value = context.get(first)?;
    for name in rest.into_iter().flat_map(|rest| rest.split('.')) {
        value = value.get(name)?;
    }
    Some(value)
}

/// Dotted names below `secret.` that a text asks for.
pub fn secrets_in(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (start, _) in text.match_indices("secret.") {
        let before = text[..start].chars().next_back();
        if before.is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/')) {
            continue;
        }
        let inside = text[..start].rfind("{{").max(text[..start].rfind("{%"));
        let open = inside.is_some_and(|at| !text[at..start].contains("}}") && !text[at..start].contains("%}"));
        let name: String = text[start + "secret.".len()..]
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
            .collect();
        if open && !name.is_empty() {
            names.insert(name.trim_end_matches('.').to_owned());
        }
    }
    names
}

/// Paths of all files below a folder, relative to it and sorted.
pub fn files_below(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder_here) = open.pop() {
        for entry in std::fs::read_dir(&folder_here)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(name) = path.strip_prefix(folder) {
                found.push(name.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn diagnostic(file: &str, error: &tera::Error) -> Diagnostic {
    use tera::ErrorKind::{RenderingError, SyntaxError};
    match error.kind() {
        SyntaxError(report) | RenderingError(report) => {
            let place = Place {
                file: file.to_owned(),
                line: report.span().start_line.max(1) as u32,
                column: report.span().start_col as u32 + 1,
            };
            let mut lines = report.message().lines();
            let message = lines.next().unwrap_or_default().to_owned();
            let rest = lines.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
            Diagnostic { place: Some(place), message, hint: (!rest.is_empty()).then_some(rest) }
        }
        other => Diagnostic::new(if file.is_empty() { other.to_string() } else { format!("{file}: {other}") }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::super::yaml;
    use super::*;

    fn context() -> Map<String, Value> {
        let Value::Object(map) = json!({"net": {"port": 80, "cidr": "10.0.0.0/8", "list": [1, 2]}}) else { panic!() };
        map
    }

    fn renderer() -> Renderer {
        Renderer::load(Path::new("/nonexistent")).unwrap()
    }

    #[test]
    fn a_lone_path_keeps_its_type() {
        let node =
            yaml::parse("s.yml", "a: \"{{ net.port }}\"\nb: \"p={{ net.port }}\"\nc: \"{{net.list}}\"\n").unwrap();
        let rendered = renderer().node(&node, &context()).unwrap();
        assert_eq!(rendered.to_json(), json!({"a": 80, "b": "p=80", "c": [1, 2]}));
    }

    #[test]
    fn undefined_is_an_error_with_the_place_of_the_string() {
        let node = yaml::parse("s.yml", "a:\n  b: \"{{ net.prot }}\"\n").unwrap();
        let faults = renderer().node(&node, &context()).unwrap_err();
        assert_eq!(faults[0].place.as_ref().unwrap().to_string(), "s.yml:2:6");
    }

    #[test]
    fn template_errors_name_the_line_of_the_template() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("x")).unwrap();
        std::fs::write(folder.path().join("x/a.conf"), "one\nport {{ net.prot }}\n").unwrap();
        let renderer = Renderer::load(folder.path()).unwrap();
        let error = renderer.template("x/a.conf", &context()).unwrap_err();
        assert!(error.to_string().starts_with("templates/x/a.conf:2:"), "{error}");
        std::fs::write(folder.path().join("x/b.conf"), "one\n{% if %}\n").unwrap();
        assert!(Renderer::load(folder.path()).err().unwrap()[0].to_string().starts_with("templates/x/b.conf:2:"));
    }

    #[test]
    fn a_fingerprint_follows_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let text = "{{ net.cidr | fingerprint }} {{ (net.cidr ~ 'x') | fingerprint }}";
        std::fs::write(folder.path().join("a"), text).unwrap();
        let rendered = Renderer::load(folder.path()).unwrap().template("a", &context()).unwrap();
        let (one, other) = rendered.split_once(' ').unwrap();
        assert!(one.len() == 16 && other.len() == 16 && one != other, "{rendered}");
        assert_eq!(one, fingerprint("10.0.0.0/8"));
    }

    #[test]
    fn secrets_are_found_where_they_are_asked_for() {
        let text = "a: {{ secret.pg.password }} b {% if secret.flag %}x{% endif %} secret.not, {{ my.secret.no }}";
        assert_eq!(secrets_in(text).into_iter().collect::<Vec<_>>(), ["flag", "pg.password"]);
    }
}
