//! Which images a text names: a line of a configuration, an argument, a variable.

use super::super::reference::Reference;
use super::{Known, REGISTRIES};

/// What a key says of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    None,
    /// It is an image, or a text with images in it.
    Image,
    /// It is a collection of images, under whatever keys.
    Images,
}

/// Words behind "image" with which a key is about something else: where images lie, how they are pulled or made, what serves them.
const OTHERS: [&str; 37] = [
    "address",
    "backend",
    "bucket",
    "dir",
    "directory",
    "digest",
    "endpoint",
    "extension",
    "file",
    "folder",
    "format",
    "formats",
    "gc",
    "height",
    "host",
    "interval",
    "mirror",
    "mirrors",
    "mount",
    "path",
    "paths",
    "policy",
    "port",
    "prefix",
    "quality",
    "registries",
    "registry",
    "root",
    "secret",
    "secrets",
    "server",
    "service",
    "size",
    "tag",
    "type",
    "url",
    "width",
];

/// What a key, flag or variable says: `SIDECAR_IMAGES`, `--helper-image`, `thanosImage`; but not `imagePullPolicy` or `IMAGE_DIR`,
/// and nothing of "image" inside of another word.
pub fn hint(key: &str) -> Hint {
    let words = words_of(key);
    let image = |word: &String| word.ends_with("image") || word.ends_with("images") || word == "imagename";
    match words.iter().rposition(image) {
        Some(at) if !words[at + 1..].iter().any(|word| OTHERS.contains(&word.as_str())) => {
            if words[at].ends_with('s') {
                Hint::Images
            } else {
                Hint::Image
            }
        }
        _ => Hint::None,
    }
}

/// What a key in a collection of images says: `images: { trainer: … }`.
pub fn hint_among_images(key: &str) -> Hint {
    if words_of(key).iter().any(|word| OTHERS.contains(&word.as_str())) { Hint::None } else { Hint::Images }
}

pub fn says_image(key: &str) -> bool {
    hint(key) != Hint::None
}

/// `STAGING_IMAGE`, `staging-image`, `stagingImage` as `[staging, image]`.
fn words_of(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let chars: Vec<char> = key.chars().collect();
    for (index, c) in chars.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| chars[before]);
        let after_lower = before.is_some_and(|c| c.is_lowercase() || c.is_ascii_digit());
        // `CSIImage`
        let ends_capitals =
            before.is_some_and(char::is_uppercase) && chars.get(index + 1).is_some_and(|c| c.is_lowercase());
        if !c.is_alphanumeric() || (c.is_uppercase() && (after_lower || ends_capitals)) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A text that should be an image: with a tag or digest, of a well-known registry, or known. A plain word or path could mean
/// anything.
pub fn likely(text: &str, known: &Known) -> Option<Reference> {
    let reference = Reference::parse(text)?;
    let is_known = known.repositories.contains(&reference.repository);
    let fixed = reference.tag.is_some() || reference.digest.is_some();
    let told = (reference.qualified && REGISTRIES.contains(&reference.registry())) || (is_known && text.contains('/'));
    // `minio:9000` is an address, `postgres:17` an image.
    let port = |tag: &String| tag.parse::<u16>().is_ok_and(|port| port >= 1024);
    let address = !text.contains('/') && !is_known && reference.tag.as_ref().is_some_and(port);
    ((fixed || told) && !address).then_some(reference)
}

/// The images in a text of many lines, with the number of each line from 1; 0 where there is only one.
pub fn in_text(text: &str, hinted: bool, known: &Known) -> Vec<(usize, Reference)> {
    if hinted && let Some(reference) = likely(text.trim(), known) {
        return vec![(0, reference)];
    }
    let mut found = Vec::new();
    let mut in_list = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut references = fields(line, known);
        if let Some(item) = line.strip_prefix("- ").filter(|_| in_list) {
            references.extend(listed(item, known));
        } else {
            in_list = line.strip_suffix(':').is_some_and(|key| says_image(key.trim_matches(['"', '\''])));
        }
        if hinted {
            references.extend(listed(line, known));
        }
        references.extend(words(line, known));
        let number = if text.contains('\n') { index + 1 } else { 0 };
        found.extend(references.into_iter().map(|reference| (number, reference)));
    }
    found
}

/// Images in what a key says are images: all words of a list; in other texts those that can hardly be anything else.
fn listed(text: &str, known: &Known) -> Vec<Reference> {
    let splits = |c: char| c.is_whitespace() || "\"'`,;()[]{}|<>".contains(c);
    let words: Vec<_> = text.split(splits).filter(|word| !word.is_empty() && *word != "-").collect();
    let found: Vec<_> = words.iter().filter_map(|word| Some((*word, likely(word, known)?))).collect();
    let is_list = found.len() == words.len();
    // Not `12:30`.
    let number = |tag: &String| tag.bytes().all(|byte| byte.is_ascii_digit());
    let plain = |word: &str, reference: &Reference| {
        word.contains('/') || (word.starts_with(char::is_alphabetic) && !reference.tag.as_ref().is_some_and(number))
    };
    let found = found.into_iter().filter(|(word, reference)| is_list || plain(word, reference));
    found.map(|(_, reference)| reference).collect()
}

/// The values of `image: VALUE`, `"image": "VALUE"`, `sidecar_image = "VALUE"`, `images: [VALUE, VALUE]` in a line of YAML, JSON or
/// the like.
fn fields(line: &str, known: &Known) -> Vec<Reference> {
    let mut found = Vec::new();
    for (at, separator) in line.match_indices([':', '=']) {
        let Some(key) = key_before(&line[..at], separator == ":" && !ends_a_key(&line[at + 1..])) else {
            continue;
        };
        if !says_image(key) {
            continue;
        }
        let rest = line[at + 1..].trim_start();
        let quoted = |quote: char| rest.strip_prefix(quote).and_then(|rest| rest.split(quote).next());
        let list = rest.strip_prefix('[').and_then(|rest| rest.split(']').next());
        match quoted('"').or_else(|| quoted('\'')).or(list) {
            Some(value) if key == "image" && list.is_none() => found.extend(Reference::parse(value)),
            Some(value) => found.extend(likely(value, known).map_or_else(|| listed(value, known), |it| vec![it])),
            // Without quotes it is the whole value, not the first word of a sentence.
            None => {
                let value = rest.split([',', '}']).next().unwrap_or_default();
                let value = value.split(" #").next().unwrap_or(value).trim_end();
                let reference = if key == "image" { Reference::parse(value) } else { likely(value, known) };
                found.extend(reference);
            }
        }
    }
    found
}

/// A colon that separates has a space or a quote behind it, and `foo/image:v1` has not.
fn ends_a_key(after: &str) -> bool {
    after.is_empty() || after.starts_with([' ', '\t', '"', '\''])
}

/// The key at the end of `before`, which may be quoted (and must be, where `only_quoted`).
fn key_before(before: &str, only_quoted: bool) -> Option<&str> {
    let before = before.trim_end();
    let unquoted = before.strip_suffix(['"', '\'']);
    let before = unquoted.or((!only_quoted).then_some(before))?;
    let inside = |c: char| c.is_alphanumeric() || "_.-".contains(c);
    let start = before.char_indices().rev().take_while(|(_, c)| inside(*c)).last().map(|(at, _)| at)?;
    let begins = before[..start].chars().next_back().is_none_or(|c| c.is_whitespace() || "\"'{,[(".contains(c));
    begins.then(|| before[start..].trim_start_matches('-'))
}

fn words(line: &str, known: &Known) -> Vec<Reference> {
    let splits = |c: char| c.is_whitespace() || "\"'`;()[]{}|<>".contains(c);
    let mut found = Vec::new();
    let mut hinted = false;
    for word in line.split(splits).filter(|word| !word.is_empty()) {
        let flag = word.starts_with('-') && !word.contains('=') && says_image(word);
        let mut hinted = std::mem::replace(&mut hinted, flag);
        // `--sidecar-images=A,B`: the key is that of both.
        for part in word.split(',') {
            let (key, value) = part.split_once('=').unwrap_or(("", part));
            if !key.is_empty() {
                hinted = says_image(key);
            }
            if part.contains("://") {
                continue;
            }
            let value = value.trim_end_matches(['.', ':']);
            found.extend(if hinted { likely(value, known) } else { told_by_its_name(value, known) });
        }
    }
    found
}

/// A word without a hint: fixed to a version, and of a registry or repository that is known.
fn told_by_its_name(word: &str, known: &Known) -> Option<Reference> {
    let reference = Reference::parse(word)?;
    let port = |tag: &String| tag.parse::<u16>().is_ok();
    let fixed = reference.digest.is_some() || reference.tag.is_some();
    let is_known = known.repositories.contains(&reference.repository);
    let told = if reference.qualified {
        is_known || REGISTRIES.contains(&reference.registry())
    } else {
        // `postgres:5432` is an address.
        is_known && !reference.tag.as_ref().is_some_and(port)
    };
    (fixed && told).then_some(reference)
}
