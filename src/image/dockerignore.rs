//! `.dockerignore`: what of a folder is not part of a build's context, by Docker's own rules.
//!
//! They are those of moby's `patternmatcher`, not those of `.gitignore`: every pattern begins at the context's root, `**` stands for
//! any number of folders, the last pattern that fits decides, and `!` brings back also what is below something left out.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The patterns of a file, in its order.
#[derive(Debug, Default)]
pub struct Ignored {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    /// `!`: what it fits is part of the context after all.
    back: bool,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Char(char),
    /// `?`: one character of a name.
    One,
    /// `*`: any of a name.
    Any,
    /// `**/`: nothing, or folders.
    Folders,
    /// `**` at the end: everything.
    All,
    /// `[a-z]`, `[^a]`: ranges, and whether it is turned around.
    Class(Vec<(char, char)>, bool),
}

impl Ignored {
    /// What `DOCKERFILE.dockerignore` beside the Dockerfile says, else the context's `.dockerignore`; nothing when there is neither.
    ///
    /// # Errors
    /// When it cannot be read or a pattern is wrong.
    pub fn read(context: &Path, dockerfile: &str) -> Result<Self> {
        for name in [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()] {
            let path = context.join(name);
            match fs::read_to_string(&path) {
                Ok(text) => return Self::parse(&text).with_context(|| format!("reading {}", path.display())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
            }
        }
        Ok(Self::default())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut patterns = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = if line.starts_with('#') { "" } else { line.trim() };
            let (back, written) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let path = clean(written);
            if line.is_empty() || path.is_empty() && !back {
                // `.` and `/` would be everything; Docker takes them for nothing.
                continue;
            }
            if path.is_empty() {
                bail!("`{line}` names nothing that could be part of the context");
            }
            let parts = parts(&path).with_context(|| format!("the pattern `{line}` does not end its [ or \\"))?;
            patterns.push(Pattern { back, parts });
        }
        Ok(Self { patterns })
    }

    /// Whether a path (relative to the context, with slashes) is left out.
    pub fn leaves_out(&self, path: &str) -> bool {
        let mut out = false;
        for pattern in &self.patterns {
            // Only what can change the answer is looked at, in the order of the file.
            if pattern.back == out && pattern.fits_it_or_a_parent(path) {
                out = !pattern.back;
            }
        }
        out
    }

    /// Whether something below what is left out may be part of the context.
    pub fn brings_back(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.back)
    }
}

impl Pattern {
    fn fits_it_or_a_parent(&self, path: &str) -> bool {
        let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
        parents.chain([path]).any(|path| fits(&self.parts, path))
    }
}

fn fits(parts: &[Part], text: &str) -> bool {
    let Some((part, parts)) = parts.split_first() else {
        return text.is_empty();
    };
    let mut chars = text.chars();
    let one = |fitting: &dyn Fn(char) -> bool, mut chars: std::str::Chars<'_>| {
        chars.next().is_some_and(fitting) && fits(parts, chars.as_str())
    };
    match part {
        Part::Char(expected) => one(&|c| c == *expected, chars),
        Part::One => one(&|c| c != '/', chars),
        Part::Class(ranges, turned) => one(&|c| ranges.iter().any(|(a, b)| (*a..=*b).contains(&c)) != *turned, chars),
        Part::All => true,
        Part::Folders => fits(parts, text) || text.match_indices('/').any(|(at, _)| fits(parts, &text[at + 1..])),
        Part::Any => loop {
            if fits(parts, chars.as_str()) {
                return true;
            }
            if chars.next().is_none_or(|c| c == '/') {
                return false;
            }
        },
    }
}

/// The pattern's path without `.`, `..`, doubled slashes and slashes around it.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn parts(pattern: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                let slash = chars.next_if_eq(&'/').is_some();
                if chars.peek().is_none() && !slash { Part::All } else { Part::Folders }
            }
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => Part::Char(chars.next()?),
            '[' => {
                let turned = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    let mut member = || match chars.next()? {
                        '\\' => chars.next().map(|c| (c, true)),
                        c => Some((c, false)),
                    };
                    let (from, escaped) = member()?;
                    if from == ']' && !escaped && !ranges.is_empty() {
                        break;
                    }
                    let to = if chars.next_if_eq(&'-').is_some() {
                        match chars.next()? {
                            '\\' => chars.next()?,
                            c => c,
                        }
                    } else {
                        from
                    };
                    ranges.push((from, to));
                }
                Part::Class(ranges, turned)
            }
            c => Part::Char(c),
        });
    }
    Some(parts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Cases of moby's own tests (patternmatcher_test.go, `TestMatches`) and of the documentation of Dockerfiles.
    #[test]
    fn it_answers_as_dockers_own_matcher() {
        for (patterns, path, out) in [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("**/dir", "dir", true),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/*", "dir/dir2/dir2/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**/file", "dir/dir/file", true),
            ("**/file*", "dir/dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/file*.txt*", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
            ("**/*.txt", "file.txt", true),
            ("**/**/*.txt", "file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/file.txt", true),
            ("a/*.txt", "a/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "aae", false),
            ("a[^b-d]e", "aze", true),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcdef", false),
            ("abc?def", "abcZdef", true),
            ("abc?def", "abcdef", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("**/foo/bar", "a/b/foo/bar", true),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", "bar/.foo", true),
            ("a(b)c/def", "a(b)c/def", true),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            // A pattern begins at the root, whatever slashes are around it.
            ("/data/", "data/x", true),
            ("data", "sub/data", false),
            ("./a/../data", "data", true),
            // The last that fits decides.
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("!README.md\n*.md", "README.md", true),
            ("data\n!data/keep", "data/keep/x", false),
            ("data\n!data/keep", "data/other", true),
            ("# data\n\n  sub  \n", "sub", true),
            ("# data", "# data", false),
            (".\n/", "data", false),
        ] {
            let ignored = Ignored::parse(patterns).unwrap();
            assert_eq!(ignored.leaves_out(path), out, "{patterns:?} {path:?} {ignored:?}");
        }
    }

    #[test]
    fn a_wrong_pattern_is_an_error_that_shows_it() {
        for wrong in ["a[b", "a\\", "!"] {
            let error = Ignored::parse(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
    }
}
