"""`provision` against Ansible, Ansible with Mitogen, and pyinfra: the same steps, on the same host, in one run.

The host is a sandbox host of its own, reached over SSH: at once, and through a relay that makes it 20 ms distant. Steps are as
in everyday playbooks, each on its own: directories, files from a template, programs with `creates`. In each repetition
the tools take turns; of the repetitions the fastest counts. After every run the number of changes that the tool reports
and every file on the host are compared with what they must be; a tool that is wrong is not measured.

    bench/run engines
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from delay import Relay

TREE = "/srv/bench"
TEMPLATE = "# Written for {{ who }}.\n" + "".join(f"setting_{i} = {{{{ value }}}}-{i}\n" for i in range(50))
VALUES = {"who": "the benchmark", "value": "some-value"}
ROUND_TRIP = 0.02


def fail(message):
    sys.exit(f"bench/engines: {message}")


class Host:
    """The sandbox host: commands on it for preparing and looking, outside of what is measured."""

    def __init__(self, provision, project):
        self.provision, self.project = provision, project
        subprocess.run([provision, "--project", project, "sandbox", "up", "bench-engines"], check=True, stdout=sys.stderr)
        text = (project / "inventory/bench-engines.yml").read_text()
        field = lambda name: re.search(rf"^ +{name}: (.+)$", text, re.M).group(1)
        self.address, self.key, self.host_key = field("address"), field("identity_file"), field("host_key")

    def shell(self, script):
        command = [self.provision, "--project", self.project, "sandbox", "shell", "bench-engines", "--", "sh", "-ec", script]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            fail(f"on the host: {script}: {done.stderr}")
        return done.stdout

    def down(self):
        subprocess.run([self.provision, "--project", self.project, "sandbox", "down", "bench-engines"], check=True, stdout=sys.stderr)

    def tree(self):
        """Every path with its mode and content."""
        listing = self.shell(f"cd {TREE} && find . -type f -printf '%m ' -exec sha256sum {{}} + ; find . -printf '%y %m %p\\n' | sort")
        return hashlib.sha256("\n".join(sorted(listing.splitlines())).encode()).hexdigest()


def steps(count):
    """(kind, path) of `count` steps of each kind, under a folder that is there."""
    for i in range(count):
        yield "directory", f"{TREE}/directory-{i:03}"
    for i in range(count):
        yield "file", f"{TREE}/directory-{i:03}/page.conf"
    for i in range(count):
        yield "command", f"{TREE}/directory-{i:03}/made"


class Tool:
    """One tool: its project in a folder, and how it is called and read. `port` and `address` say how the host is reached."""

    def __init__(self, folder, host, address, port):
        self.folder, self.host, self.address, self.port = folder, host, address, port
        folder.mkdir(parents=True)
        known = f"[{address}]:{port}" if port != 22 else address
        (folder / "known_hosts").write_text(f"{known} {host.host_key}\n")

    def run(self, plan):
        """Seconds and the number of changes that the tool reports."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8", **self.environment()}
        before = time.perf_counter()
        done = subprocess.run(self.command(plan), cwd=self.folder, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - before
        return seconds, self.changes(done)

    def environment(self):
        return {}

    def wrong(self, done):
        fail(f"{self.name} failed ({done.returncode}):\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


class Provision(Tool):
    name = "provision"

    def __init__(self, folder, host, address, port, count):
        super().__init__(folder, host, address, port)
        for name in ("inventory", "stages", "templates/bench"):
            (folder / name).mkdir(parents=True)
        (folder / "inventory/defaults.yml").write_text(json.dumps({"bench": VALUES}) + "\n")
        target = {"transport": "ssh", "address": address, "port": port, "user": "root", "identity_file": host.key, "host_key": host.host_key}
        (folder / "inventory/bench.yml").write_text(json.dumps({"hosts": {"bench": target}}) + "\n")
        text = TEMPLATE.replace("{{ who }}", "{{ bench.who }}").replace("{{ value }}", "{{ bench.value }}")
        (folder / "templates/bench/page.conf").write_text(text)
        resources = []
        for kind, path in steps(count):
            resources.append({
                "directory": {"directory": {"path": path, "mode": "0750"}},
                "file": {"file": {"path": path, "template": "bench/page.conf", "mode": "0640"}},
                "command": {"command": {"argv": ["touch", path], "creates": path}},
            }[kind])
        (folder / "stages/bench.yml").write_text(json.dumps({"stage": "bench", "summary": "Steps", "resources": resources}) + "\n")

    def command(self, plan):
        return [self.host.provision, "--json", "-i", "inventory/bench.yml", "plan" if plan else "up"]

    def changes(self, done):
        if done.returncode not in (0, 3):
            self.wrong(done)
        summary = json.loads(done.stdout.splitlines()[-1])
        return summary["changed"] if "changed" in summary else summary["create"] + summary["change"] + summary["run"]

    def forget(self):
        """The program that was copied to the host goes: the first run pays for it again."""
        self.host.shell("rm -rf /dev/shm/provision*")


class Ansible(Tool):
    name = "Ansible"

    def __init__(self, folder, host, address, port, count):
        super().__init__(folder, host, address, port)
        (folder / "page.conf.j2").write_text(TEMPLATE)
        (folder / "hosts.ini").write_text(
            f"bench ansible_host={address} ansible_port={port} ansible_user=root ansible_ssh_private_key_file={host.key}"
            f" ansible_python_interpreter=/usr/bin/python3 ansible_ssh_common_args='-o UserKnownHostsFile={folder}/known_hosts'\n")
        tasks = []
        for kind, path in steps(count):
            tasks.append({"name": f"{kind} {path}", **{
                "directory": {"ansible.builtin.file": {"path": path, "state": "directory", "mode": "0750"}},
                "file": {"ansible.builtin.template": {"src": "page.conf.j2", "dest": path, "mode": "0640"}},
                "command": {"ansible.builtin.command": {"argv": ["touch", path], "creates": path}},
            }[kind]})
        play = [{"hosts": "bench", "gather_facts": False, "vars": VALUES, "tasks": tasks}]
        (folder / "play.yml").write_text(json.dumps(play))

    def environment(self):
        return {"ANSIBLE_PIPELINING": "1", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_DEPRECATION_WARNINGS": "0"}

    def command(self, plan):
        program = pathlib.Path(sys.executable).parent / "ansible-playbook"
        return [program, "-i", "hosts.ini", "play.yml", *(["--check"] if plan else [])]

    def changes(self, done):
        recap = re.search(r"ok=\d+ +changed=(\d+) +unreachable=0 +failed=0", done.stdout)
        if done.returncode or not recap:
            self.wrong(done)
        return int(recap.group(1))

    def forget(self):
        self.host.shell("rm -rf ~/.ansible")


class Mitogen(Ansible):
    name = "Ansible with Mitogen"

    def environment(self):
        import ansible_mitogen
        plugins = pathlib.Path(ansible_mitogen.__file__).parent / "plugins/strategy"
        return {**super().environment(), "ANSIBLE_STRATEGY_PLUGINS": str(plugins), "ANSIBLE_STRATEGY": "mitogen_linear"}


class Pyinfra(Tool):
    name = "pyinfra"

    def __init__(self, folder, host, address, port, count):
        super().__init__(folder, host, address, port)
        (folder / "page.conf.j2").write_text(TEMPLATE)
        (folder / "inventory.py").write_text(
            f"bench = [({address!r}, {{'ssh_port': {port}, 'ssh_user': 'root', 'ssh_key': {host.key!r},"
            f" 'ssh_known_hosts_file': {str(folder / 'known_hosts')!r}, 'ssh_strict_host_key_checking': 'yes'}})]\n")
        lines = ["from pyinfra.operations import files, server"]
        for kind, path in steps(count):
            lines.append({
                "directory": f"files.directory(path={path!r}, mode='750')",
                "file": f"files.template(src='page.conf.j2', dest={path!r}, mode='640', **{VALUES!r})",
                # It has no `creates`; its documentation asks a fact first.
                "command": f"if not host.get_fact(File, path={path!r}):\n    server.shell(commands=['touch {path}'])",
            }[kind])
        lines.insert(1, "from pyinfra import host\nfrom pyinfra.facts.files import File")
        (folder / "deploy.py").write_text("\n".join(lines) + "\n")

    def command(self, plan):
        program = pathlib.Path(sys.executable).parent / "pyinfra"
        return [program, "inventory.py", "deploy.py", *(["--dry"] if plan else ["-y"])]

    def changes(self, done):
        text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        if done.returncode:
            self.wrong(done)
        if total := re.search(r"Grand total +(?:\d+|-) +(\d+|-) +(\d+|-)", text):
            changed, failed = (0 if cell == "-" else int(cell) for cell in total.groups())
            return -1 if failed else changed
        if "Detected changes:" not in text:
            self.wrong(done)
        # A row per operation: its name, changes, changes that are not sure.
        return len(re.findall(r"^ +(?:files|server)\.\w+ \(.*\) +\d+ ", text, re.M))

    def forget(self):
        pass


PHASES = ("first", "again", "plan", "drift")


def phases(tool, count):
    """Seconds of each phase; ends the benchmark when the tool did not do what it had to, or does not know what it did."""
    host, total = tool.host, 3 * count
    drifted = [f"{TREE}/directory-{count - 1:03}/page.conf", f"{TREE}/directory-{count // 2:03}/made"]
    host.shell(f"rm -rf {TREE}; mkdir {TREE}")
    tool.forget()
    seconds, trees = {}, {}
    for phase, expected in zip(PHASES, (total, 0, 0, 3)):
        if phase == "drift":
            host.shell(f"rm {' '.join(drifted)}; chmod 700 {TREE}/directory-000")
        seconds[phase], changes = tool.run(plan=phase == "plan")
        if changes != expected:
            fail(f"{tool.name}, {phase}: reports {changes} changes, not {expected}")
        trees[phase] = host.tree()
    if len(set(trees.values())) != 1:
        fail(f"{tool.name}: the host is not the same after each phase: {trees}")
    return seconds, trees["first"]


def table(best, tools):
    lines = ["| | " + " | ".join(tools) + " |", "|---" * (len(tools) + 1) + "|"]
    for distance in sorted({key[1] for key in best}):
        for phase in PHASES:
            row = {tool: best[tool, distance, phase] for tool in tools}
            cells = [f"{row[tools[0]]:.2f} s"] + [f"{row[t]:.1f} s, {row[t] / row[tools[0]]:.0f} times" for t in tools[1:]]
            lines.append(f"| {phase}, {distance * 1000:.0f} ms away | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--provision", required=True, type=pathlib.Path, help="release build of provision")
    arguments.add_argument("--steps", type=int, default=10, help="steps of each of the three kinds")
    arguments.add_argument("--repetitions", type=int, default=2)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-engines-") as folder:
        work = pathlib.Path(folder)
        project = work / "sandbox"
        (project / "inventory").mkdir(parents=True)
        (project / "stages").mkdir()
        host = Host(options.provision.resolve(), project)
        try:
            measure(host, work, options)
        finally:
            host.down()


def measure(host, work, options):
    host.shell("apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 >/dev/null")
    best, trees = {}, set()
    for distance in (0, ROUND_TRIP):
        address, port = (host.address, 22)
        if distance:
            address, port = "127.0.0.1", Relay((host.address, 22), distance).port
        tools = [kind(work / f"{kind.__name__}-{port}", host, address, port, options.steps) for kind in (Provision, Pyinfra, Mitogen, Ansible)]
        for repetition in range(options.repetitions):
            for tool in tools:
                seconds, tree = phases(tool, options.steps)
                trees.add(tree)
                print(json.dumps({"tool": tool.name, "round_trip": distance, "repetition": repetition, **seconds}), file=sys.stderr)
                for phase, value in seconds.items():
                    key = tool.name, distance, phase
                    best[key] = min(value, best.get(key, value))
    if len(trees) != 1:
        fail("the tools did not make the same files")
    print(f"{3 * options.steps} steps, best of {options.repetitions}, load {os.getloadavg()[0]:.1f}")
    print(table(best, [tool.name for tool in tools]))


if __name__ == "__main__":
    main()
