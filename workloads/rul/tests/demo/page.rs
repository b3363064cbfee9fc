//! The report as a file: tags that fit, and nothing from elsewhere.

/// Elements without an end.
const VOID: [&str; 2] = ["meta", "!doctype"];

/// Every tag that is opened is closed, in order; every attribute is quoted.
#[track_caller]
pub fn is_well_formed(html: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let after = &rest[at + 1..];
        let end = after.find('>').unwrap_or_else(|| panic!("a tag without an end: {:.60}", after));
        let tag = &after[..end];
        assert!(!tag.contains('<'), "a tag in a tag: {tag:.80}");
        assert_eq!(tag.matches('"').count() % 2, 0, "an odd number of quotes: {tag:.80}");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes another: {open:?}");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
        rest = &after[end + 1..];
        if name == "style" && !tag.starts_with('/') {
            rest = &rest[rest.find("</style>").unwrap_or_else(|| panic!("a style without an end"))..];
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
}

/// No script, and nothing that a browser would fetch.
#[track_caller]
pub fn loads_nothing(html: &str) {
    for word in ["<script", "<link", "<img", "<iframe", "<object", " src=", " href=", "url(", "@import", "javascript:"]
    {
        assert!(!html.contains(word), "{word}");
    }
}

#[test]
#[should_panic(expected = "closes another")]
fn a_page_with_crossed_tags_is_not_well_formed() {
    is_well_formed("<!doctype html><p><b>a</p></b>");
}
