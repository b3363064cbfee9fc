//! Images of Dockerfiles and of recipes on a real host: BuildKit on k3s's containerd, what a change does, what is kept and what
//! goes. Needs root and the release binary: `scripts/test` sets PROVISION_BIN; without it this says so and passes.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod world;

use std::process::Command;

use world::World;

const ONLY: &[&str] = &["--only", "system,k3s,buildkit,web", "--set", "buildkit.enabled=true"];

/// Answers with the file that was built into it; `sleep` is for the pod.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "write")) {
        FILE *out = fopen("/built", "w");
        return !out || fputs("made by RUN\n", out) < 0 || fclose(out);
    }
    char text[256];
    for (int i = 1; i < argc; i++) {
        FILE *in = fopen(argv[i], "r");
        while (in && fgets(text, sizeof text, in)) fputs(text, stdout);
    }
    fflush(stdout);
    while (argc > 1) pause();
    return 0;
}
"#;

const IMAGE: &str = "web/image apps/web/Dockerfile";

const STAGE: &str = "
stage: web
summary: An image of a Dockerfile
needs: [buildkit]
resources:
  - image: { dockerfile: apps/web/Dockerfile }
  - namespace: web
  - manifest: web/web.yml
checks:
  - rollout: { namespace: web, deployment: web }
";

const IMAGE_ONLY: &str = "
stage: web
summary: An image of a Dockerfile
needs: [buildkit]
resources:
  - image: { dockerfile: apps/web/Dockerfile }
";

const MANIFEST: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: web }
spec:
  replicas: 1
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - { name: web, image: '{{ image.web }}', imagePullPolicy: Never, args: [/page, /built] }
---
apiVersion: batch/v1
kind: CronJob
metadata: { name: nightly, namespace: web }
spec:
  schedule: '0 0 1 1 *'
  suspend: true
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
            - { name: web, image: '{{ image.web }}', imagePullPolicy: Never }
";

const DOCKERFILE: &str = "FROM scratch\nCOPY . /\nRUN [\"/program\", \"write\"]\nENTRYPOINT [\"/program\"]\n";

#[test]
fn images_of_dockerfiles() {
    let Some(world) = World::new("e2e-images") else { return };
    prepare(&world);
    let up = [&["up"], ONLY].concat();
    let plan = [&["plan"], ONLY].concat();
    world.expect(0, &up);
    assert_eq!(pod(&world), "one\nmade by RUN");
    assert_eq!(world.changes(0, &plan), [""; 0]);
    let first = images(&world);
    assert_eq!(first.len(), 1, "{first:?}");
    nothing_is_left(&world);

    // What .dockerignore leaves out is no input.
    world.write("apps/web/notes.txt", "other notes");
    assert_eq!(world.changes(0, &plan), [""; 0]);

    // Of the same size, which is all that BuildKit looks at besides times: another image.
    world.write("apps/web/page", "two\n");
    let expected = [IMAGE, "web/manifest web/web.yml"];
    assert_eq!(world.changes(3, &plan), expected);
    assert_eq!(world.changes(0, &up), expected);
    assert_eq!(pod(&world), "two\nmade by RUN");

    // The image alone: the one that a Deployment without pods and a suspended CronJob name stays, the one before it goes.
    world.shell(
        "kubectl scale -n web deployment web --replicas 0 && \
         kubectl wait -n web --for=delete pod -l app=web --timeout=60s",
    );
    // The kubelet removes containers of pods that are gone about once a minute; until then they count.
    world.shell(&format!(
        "for i in $(seq 150); do k3s ctr -n k8s.io containers list | grep -q {} || exit 0; sleep 1; done; exit 1",
        first[0]
    ));
    let before = images(&world);
    let used = before.iter().find(|image| !first.contains(image)).unwrap();
    world.write("apps/web/page", "six\n");
    world.write("stages/web.yml", IMAGE_ONLY);
    assert_eq!(world.changes(0, &up), [IMAGE]);
    let now = images(&world);
    assert!(now.len() == 2 && now.contains(used) && !now.contains(&first[0]), "{before:?} {now:?}");
    world.write("stages/web.yml", STAGE);
    world.expect(0, &up);
    assert_eq!(pod(&world), "six\nmade by RUN");

    // A build that fails says why and leaves nothing.
    world.write("apps/web/Dockerfile", "FROM scratch\nCOPY . /\nRUN [\"/missing\"]\n");
    let text = world.expect(1, &up);
    assert!(text.contains("/missing"), "{text}");
    nothing_is_left(&world);
    assert_eq!(pod(&world), "six\nmade by RUN");
}

fn prepare(world: &World) {
    world.write("stages/web.yml", STAGE);
    world.write("templates/web/web.yml", MANIFEST);
    world.write("apps/web/Dockerfile", DOCKERFILE);
    world.write("apps/web/page", "one\n");
    world.write("apps/web/.dockerignore", "Dockerfile\n.dockerignore\nnotes.txt\n");
    world.write("apps/web/notes.txt", "notes");
    let source = world.folder.path().join("program.c");
    std::fs::write(&source, PROGRAM).unwrap();
    let program = world.folder.path().join("apps/web/program");
    let built = Command::new("cc").arg("-static").arg("-o").arg(&program).arg(&source).status().unwrap();
    assert!(built.success());
}

/// What the pod of the Deployment prints.
fn pod(world: &World) -> String {
    world.shell("kubectl logs -n web deployment/web")
}

/// Tags of the image in containerd.
fn images(world: &World) -> Vec<String> {
    let listed = world.shell("k3s ctr -n k8s.io images list -q | grep '^provision.local/web:' | sort");
    listed.lines().map(str::to_owned).collect()
}

fn nothing_is_left(world: &World) {
    assert_eq!(world.shell("ls /var/lib/provision/build 2>/dev/null | wc -l"), "0", "a context stays");
}
