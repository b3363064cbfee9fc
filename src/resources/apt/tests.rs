#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::host::fake::{FakeHost, failed, ok};
use crate::resources::testing::Project;
use crate::resources::{AnyResource, Planned};

fn spec(value: serde_json::Value) -> Apt {
    serde_json::from_value(value).unwrap()
}

/// dpkg's answers are recorded from Debian 12 and kept in a file of the fake, which `apt-get install` extends.
fn host(installed: &str) -> FakeHost {
    FakeHost::new()
        .file("/fake/dpkg", installed, 0o644)
        .file("/var/lib/apt/lists/mirror_dists_jammy_main_binary-amd64_Packages", "", 0o644)
        .on_query(&["stat"], |_, argv| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            ok(&format!("{}.561186010 {}\n", now.as_secs(), argv[4]))
        })
        .on_query(&["dpkg-query"], |files, argv| {
            let all = files.text("/fake/dpkg");
            let found = |name: &String| {
                let is = |line: &&str| line.split(['\t', ':']).next() == Some(name);
                all.lines().find(is).map(str::to_owned)
            };
            let names = &argv[3..];
            let stdout: String = names.iter().filter_map(found).map(|line| line + "\n").collect();
            let missing = names.iter().filter(|name| found(name).is_none());
            let stderr: String =
                missing.map(|name| format!("dpkg-query: no packages found matching {name}\n")).collect();
            Output { status: i32::from(!stderr.is_empty()), stdout, stderr }
        })
        .on_run(&["apt-get"], |files, cmd| {
            let before = files.text("/fake/dpkg");
            let verb = cmd.argv.iter().position(|a| a == "install" || a == "remove");
            let Some(verb) = verb else { return ok("") };
            let names: Vec<_> = cmd.argv[verb + 1..].iter().filter(|a| !a.starts_with("--")).collect();
            let mut after: String = before
                .lines()
                .filter(|line| !names.iter().any(|n| line.split('\t').next() == Some(split(n).0)))
                .map(|line| format!("{line}\n"))
                .collect();
            for name in names {
                let (name, version) = split(name);
                match cmd.argv[verb].as_str() {
                    "install" => after += &format!("{name}\tii \t{}\n", version.unwrap_or("1.0")),
                    _ => after += &format!("{name}\trc \t1.0\n"),
                }
            }
            files.put_file("/fake/dpkg", after, 0o644);
            ok("")
        })
        .on_run(&["dpkg", "--configure"], |files, _| {
            let after = files.text("/fake/dpkg").replace("\tiF ", "\tii ");
            files.put_file("/fake/dpkg", after, 0o644);
            files.remove("/var/lib/dpkg/updates/0001");
            ok("")
        })
}

async fn plan(spec: &Apt, host: &FakeHost) -> Diff {
    match spec.plan(host).await.unwrap() {
        Planned::Change(diff) => diff,
        other => panic!("{other:?}"),
    }
}

fn details(diff: &Diff) -> Vec<String> {
    let line = |c: &crate::diff::Change| format!("{}: {}", c.field, c.detail);
    diff.changes.iter().map(line).collect()
}

#[tokio::test]
async fn plan_apply_plan() {
    let host = host("libc6:amd64\tii \t2.36-9+deb12u14\nufw\trc \t0.36.2-1\nmawk\tii \t1.3\nnano\tii \t7.2-1\n");
    let spec = spec(json!({ "packages": ["curl", "libc6", "ufw", "mawk=1.4"], "absent": ["nano", "vim"] }));
    let diff = plan(&spec, &host).await;
    assert_eq!(
        details(&diff),
        ["curl: absent -> installed", "ufw: absent -> installed", "mawk: 1.3 -> 1.4", "nano: 7.2-1 -> absent"]
    );
    assert_eq!(diff.action, Some(Action::Change));
    assert!(host.changes().is_empty());
    AnyResource::apply(&spec, &host, &diff).await.unwrap();
    assert_eq!(spec.plan(&host).await.unwrap(), Planned::InSync);
    let runs = host.runs();
    assert_eq!(runs.len(), 2, "the lists are fresh: no update");
    assert!(runs[1].argv.ends_with(&["curl".into(), "ufw".into(), "mawk=1.4".into()]));
    assert!(runs[1].argv.contains(&"DPkg::Lock::Timeout=600".to_owned()));
    assert!(runs[1].env.contains(&("DEBIAN_FRONTEND".into(), "noninteractive".into())));
}

#[tokio::test]
async fn what_was_cut_is_finished_first() {
    let host = host("ufw\tiF \t0.36.2-1\n").file("/var/lib/dpkg/updates/0001", "", 0o644);
    let spec = spec(json!("ufw"));
    let diff = plan(&spec, &host).await;
    assert_eq!(details(&diff), ["dpkg: interrupted -> finished", "ufw: half configured -> installed"]);
    AnyResource::apply(&spec, &host, &diff).await.unwrap();
    assert_eq!(host.runs()[0].argv[..3], ["dpkg", "--configure", "-a"]);
    assert_eq!(spec.plan(&host).await.unwrap(), Planned::InSync);
}

#[tokio::test]
async fn lists_are_refreshed_when_missing_or_to_blame() {
    let blank = host("");
    blank.files().remove("/var/lib/apt/lists");
    let spec = spec(json!(["curl"]));
    let diff = plan(&spec, &blank).await;
    assert_eq!(diff.action, Some(Action::Create));
    AnyResource::apply(&spec, &blank, &diff).await.unwrap();
    assert_eq!(blank.runs()[0].argv.last().unwrap(), "update");

    let unknown = "Reading package lists...\nE: Unable to locate package curl";
    let stale = host("").answer(&["apt-get"], failed(100, unknown));
    let error = AnyResource::apply(&spec, &stale, &diff).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown package \"curl\": no repository of this host (ubuntu 22.04) has it\n  hint: check its spelling; package names differ between distributions and their releases"
    );
    let verbs: Vec<_> = stale.runs().iter().map(|cmd| cmd.argv[12].clone()).collect();
    assert_eq!(verbs, ["install", "update"], "one refresh after the first failure");
}

#[tokio::test]
async fn a_virtual_package_is_an_error_not_a_loop() {
    let host = host("awk\tun \t\nmawk\tii \t1.3\n").answer(&["apt-get"], ok(""));
    let spec = spec(json!("awk"));
    let diff = plan(&spec, &host).await;
    let error = AnyResource::apply(&spec, &host, &diff).await.unwrap_err();
    assert!(error.to_string().contains("no real package of this name"), "{error}");
}

#[test]
fn failures_are_explained() {
    let facts = Facts { os: "debian".into(), os_version: "12".into(), ..Facts::default() };
    let explained = |line: &str| {
        let failed = CommandFailed {
            argv: vec!["apt-get".into()],
            reason: "ended with status 100".into(),
            status: Some(100),
            tail: vec!["Reading package lists...".into(), line.into()],
        };
        explain(failed.into(), &facts).to_string()
    };
    for (line, expected) in [
        (
            "E: Package 'mime-support' has no installation candidate",
            "Package 'mime-support' has no installation candidate on debian 12",
        ),
        ("Package awk is a virtual package provided by:", "Package awk is a virtual package, not a real one"),
        ("E: Version '9' for 'jq' was not found", "Version '9' for 'jq' was not found"),
        ("E: You don't have enough free space in /var/cache/apt/archives/.", "the disk is full"),
        ("  Temporary failure resolving 'deb.example.org'", "the host cannot reach its package mirror"),
        ("E: Unable to correct problems, you have held broken packages.", "do not fit"),
    ] {
        let text = explained(line);
        assert!(text.contains(expected) && text.contains("hint: "), "{line}: {text}");
    }
    assert_eq!(explained("E: something else"), "`apt-get` ended with status 100");
}

#[test]
fn names_are_checked() {
    let resolve = |value| Resource::resolve(&mut spec(value), &mut Project::default());
    resolve(json!(["curl", "libstdc++6", "jq=1.6-2.1", "x11=2:1.0~rc1"])).unwrap();
    for bad in [
        json!([]),
        json!(["Curl"]),
        json!(["--purge"]),
        json!(["curl*"]),
        json!(["curl="]),
        json!({ "packages": ["curl=1"], "absent": ["curl"] }),
        json!({ "absent": ["curl=1"] }),
    ] {
        resolve(bad.clone()).expect_err(&bad.to_string());
    }
}

mod from_a_bundle {
    use super::*;
    use crate::artifacts::bundle::System;
    use crate::artifacts::debian::Shipped;
    use crate::hash;
    use crate::host::ArtifactPin;

    const INDEX: &str = "Package: curl\nFilename: ./curl_7.88_amd64.deb\n";

    fn shipped(os: &str) -> Shipped {
        let pin = |name: &str, content: &str| ArtifactPin {
            name: name.into(),
            version: "v1".into(),
            sha256: hash::sha256(content),
            url: None,
        };
        Shipped {
            system: System { os: os.into(), version: "12".into() },
            index: pin("Packages", INDEX),
            files: [("curl_7.88_amd64.deb", "deb"), ("other_1_amd64.deb", "other")]
                .map(|(file, content)| (file.to_owned(), hash::sha256(content)))
                .into(),
        }
    }

    fn on_debian(installed: &str) -> FakeHost {
        // Recorded from apt 2.6.1.
        let answer = "Reading package lists...\n'file:/var/lib/provision/packages/./curl_7.88_amd64.deb' curl_1%3a1_amd64.deb 3 \n";
        host(installed)
            .with_facts(|facts| {
                facts.os = "debian".into();
                facts.os_version = "12".into();
            })
            .artifact(INDEX)
            .artifact("deb")
            .on_run(&["apt-get"], move |files, cmd| {
                let has = |word: &str| cmd.argv.iter().any(|argument| argument == word);
                if has("--print-uris") {
                    return ok(answer);
                }
                if has("install") {
                    assert!(
                        files.node("/var/lib/provision/packages/curl_7.88_amd64.deb").is_some(),
                        "it is there before APT asks"
                    );
                    assert!(files.node("/var/lib/provision/packages/other_1_amd64.deb").is_none(), "and nothing else");
                    files.put_file("/fake/dpkg", "curl\tii \t1.0\n", 0o644);
                }
                ok("")
            })
    }

    #[tokio::test]
    async fn no_mirror_is_asked_and_nothing_stays() {
        let mut apt = spec(json!(["curl"]));
        apt.shipped = Some(shipped("debian"));
        let host = on_debian("");
        let Planned::Change(diff) = apt.plan(&host).await.unwrap() else { panic!("nothing to do") };
        Resource::apply(&apt, &host, &diff).await.unwrap();
        assert_eq!(apt.plan(&host).await.unwrap(), Planned::InSync);
        let runs = host.runs();
        assert_eq!(runs.len(), 3, "{runs:?}");
        for run in &runs {
            for option in
                ["Dir::Etc::SourceParts=/dev/null", "Dir::Etc::SourceList=/var/lib/provision/packages/sources.list"]
            {
                assert!(run.argv.iter().any(|argument| argument == option), "{:?}", run.argv);
            }
        }
        assert!(host.files().node("/var/lib/provision/packages").is_none());
    }

    #[test]
    fn a_package_that_the_bundle_lacks_is_an_error_of_the_project() {
        struct Bundled(Project);
        impl crate::resources::Resolve for Bundled {
            fn folder(&mut self, _: &str) -> Result<Vec<(String, Vec<u8>)>> {
                unreachable!("packages are no folder")
            }
            fn template(&mut self, path: &str) -> Result<String> {
                self.0.template(path)
            }
            fn source(&mut self, path: &str) -> Result<Vec<u8>> {
                self.0.source(path)
            }
            fn artifact(&mut self, name: &str) -> Result<ArtifactPin> {
                self.0.artifact(name)
            }
            fn image(&mut self, recipe: &str) -> Result<crate::resources::BuiltImage> {
                self.0.image(recipe)
            }
            fn image_artifact(&mut self, name: &str) -> Result<crate::resources::ImageSource> {
                self.0.image_artifact(name)
            }
            fn packages(&mut self) -> Option<Shipped> {
                Some(shipped("debian"))
            }
        }
        let mut project = Bundled(Project::default());
        let mut apt = spec(json!(["curl=7.88", "jq", "nano"]));
        let error = Resource::resolve(&mut apt, &mut project).unwrap_err().to_string();
        assert!(error.starts_with("the bundle does not have the packages jq, nano"), "{error}");
        let mut apt = spec(json!({"packages": ["curl"], "absent": ["snapd"]}));
        Resource::resolve(&mut apt, &mut project).unwrap();
        assert_eq!(apt.shipped, Some(shipped("debian")));
    }

    #[tokio::test]
    async fn packages_for_another_system_are_refused_before_anything_is_done() {
        let mut apt = spec(json!(["curl"]));
        apt.shipped = Some(shipped("ubuntu"));
        let host = on_debian("");
        let error = format!("{:#}", apt.plan(&host).await.unwrap_err());
        assert!(error.starts_with("the bundle has packages for ubuntu 12, but this host runs debian 12"), "{error}");
        assert!(host.runs().is_empty());
    }
}
