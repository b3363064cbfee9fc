//! What templates and stage files can do beyond Tera's own filters.

use base64::Engine as _;
use tera::{Kwargs, State, Tera};

/// Adds them.
pub fn register(tera: &mut Tera) {
    tera.register_filter("fernet_key", |text: &str, _: Kwargs, _: &State<'_>| fernet_key(text));
}

/// A key for Fernet, which wants 32 bytes in URL-safe base64, of a secret in whatever form.
fn fernet_key(text: &str) -> String {
    let key = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    base64::engine::general_purpose::URL_SAFE.encode(key)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_fernet_key_is_32_bytes() {
        let mut tera = Tera::default();
        register(&mut tera);
        let context = tera::Context::from_serialize(&serde_json::json!({"a": "one"})).unwrap();
        let key = tera.render_str("{{ a | fernet_key }}", &context, false).unwrap();
        assert_eq!(key, fernet_key("one"));
        assert_eq!(base64::engine::general_purpose::URL_SAFE.decode(key).unwrap().len(), 32);
    }
}
