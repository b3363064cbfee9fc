//! Following the symbolic links of a tree that is not this machine's root: an unpacked system, the layers of an image.

use std::collections::VecDeque;

/// As the kernel has it.
const MOST_LINKS: u32 = 40;

/// What becomes of the last part of a path when it is a link itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    Followed,
    Kept,
}

/// The same path with every link among its folders followed, without a slash in front. `target_of` is asked for paths of that
/// form, and answers with the target where there is a link. `None` for a path that goes round in circles.
pub fn follow(path: &str, last: Last, target_of: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut todo: VecDeque<String> = parts(path).collect();
    let mut at: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        at.push(part);
        if todo.is_empty() && last == Last::Kept {
            break;
        }
        let Some(target) = target_of(&at.join("/")) else { continue };
        links += 1;
        if links > MOST_LINKS {
            return None;
        }
        at.pop();
        if target.starts_with('/') {
            at.clear();
        }
        for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
            todo.push_front(part);
        }
    }
    Some(at.join("/"))
}

fn parts(path: &str) -> impl Iterator<Item = String> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_folders_are_followed_and_circles_are_told() {
        let links =
            [("bin", "usr/bin"), ("usr/lib", "/lib64"), ("usr/bin/sh", "../../bin/dash"), ("a", "b"), ("b", "/a")];
        let target = |at: &str| links.iter().find(|(path, _)| *path == at).map(|(_, target)| (*target).to_owned());
        let follow = |path: &str, last| follow(path, last, target);
        for (path, kept, followed) in [
            ("/bin/run", "usr/bin/run", "usr/bin/run"),
            ("./bin//sh", "usr/bin/sh", "usr/bin/dash"),
            ("usr/lib/x", "lib64/x", "lib64/x"),
            ("bin", "bin", "usr/bin"),
            ("/../bin/../x", "usr/x", "usr/x"),
            ("", "", ""),
        ] {
            assert_eq!(follow(path, Last::Kept).as_deref(), Some(kept), "{path}");
            assert_eq!(follow(path, Last::Followed).as_deref(), Some(followed), "{path}");
        }
        assert_eq!(follow("a/x", Last::Kept), None);
        assert_eq!(follow("a", Last::Kept).as_deref(), Some("a"));
    }
}
