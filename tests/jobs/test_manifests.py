#!/usr/bin/env python3
"""The Kubernetes and Compose files: only keys that exist, values of the right type, and what they promise holds.

usage: test_manifests.py      (exit code 77 without PyYAML)
"""

import re
import sys
from pathlib import Path

try:
    import yaml
except ImportError:
    print("skipped: python3-yaml is not installed (docker/install-deps.sh)")
    sys.exit(77)

import schema
from manifest_schemas import KINDS, compose

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = sorted((ROOT / "docker/kubernetes").glob("*.yaml"))
HEADER = (ROOT / "include/warpmerge.h").read_text(encoding="utf-8")
VERSION = re.search(r'#define WM_VERSION "([^"]+)"', HEADER).group(1)
# What each exit code means to a scheduler. A code that joins warpmerge.h has to join one of these lines.
HOPELESS = {2, 65, 66, 70, 73, 78}  # trying again gives the same answer
ELSEWHERE = {69}                    # no usable GPU here: another node may have one
RESUMES = {75, 143}                 # the next run continues
BY_DEFAULT = {1, 74, 130}           # counted against the limit of retries like any failure: another node may do better


def exit_codes():
    """The table in warpmerge.h: the number that begins each comment of enum wm_status, and 143 (128 + SIGTERM)."""
    body = re.search(r"enum wm_status \{(.*?)\};", HEADER, re.S).group(1)
    codes = {int(n) for n in re.findall(r"/\*\s*(\d+)\s", body)}
    return codes | {143} if 130 in codes else codes


def documents(path):
    return schema.load_all(path.read_text(encoding="utf-8"))


def schema_problems(text, name):
    problems = []
    try:
        found = schema.load_all(text)
    except yaml.YAMLError as error:
        return [f"{name}: {error}"]
    for document in found:
        kind = document.get("kind") if isinstance(document, dict) else None
        problems += KINDS[kind](document, f"{name} {kind}") if kind in KINDS else [f"{name}: unknown kind {kind!r}"]
    return problems if found else [f"{name}: empty"]


def pods(document):
    """(what it is, pod template, restart policy, needs data) of every pod that a document starts."""
    if document["kind"] == "Job":
        template = document["spec"]["template"]
        return [(document["metadata"]["name"], template, template["spec"].get("restartPolicy"), True)]
    if document["kind"] == "MPIJob":
        name = document["metadata"]["name"]
        return [(f"{name} {role}", replica["template"], replica.get("restartPolicy"), role == "Worker")
                for role, replica in document["spec"]["mpiReplicaSpecs"].items()]
    return []


def pod_problems(name, template, restart_policy, needs_data):
    """Non-root, nothing writable but volumes, bounded memory, time to end."""
    spec, problems = template["spec"], []

    def want(condition, what):
        if not condition:
            problems.append(f"{name}: {what}")

    security = spec.get("securityContext", {})
    want(security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0, "must run as a number, not root")
    want(security.get("seccompProfile") == {"type": "RuntimeDefault"}, "seccompProfile must be RuntimeDefault")
    want(spec.get("automountServiceAccountToken") is False, "must not mount a service account")
    want(restart_policy == "Never", "restartPolicy must be Never (podFailurePolicy needs it)")
    want(spec.get("terminationGracePeriodSeconds", 30) >= 60, "needs a minute or more to end")
    volumes = {v["name"]: v for v in spec.get("volumes", [])}
    for container in spec["containers"]:
        inner = container.get("securityContext", {})
        want(inner.get("readOnlyRootFilesystem") is True, "root file system must be read-only")
        want(inner.get("allowPrivilegeEscalation") is False, "privilege escalation must be off")
        want(inner.get("capabilities") == {"drop": ["ALL"]}, "capabilities must be dropped")
        limits = container.get("resources", {}).get("limits", {})
        want("memory" in limits, "needs a memory limit")
        want(re.search(rf":{re.escape(VERSION)}(-cpu|-mpi)?$", container["image"]), f"image tag must be {VERSION}")
        mounts = {m["name"]: m["mountPath"] for m in container.get("volumeMounts", [])}
        want(set(mounts) <= set(volumes), f"mounts volumes that are not there: {sorted(set(mounts) - set(volumes))}")
        want(len(set(mounts.values())) == len(mounts), "two volumes at one path")
        want(not needs_data or mounts.get("data") == "/data", "must mount the data at /data")
        want(mounts.get("scratch") == "/tmp", "must have a writable /tmp")
        used = set(re.findall(r"\$\((\w+)\)", " ".join(container.get("args", []) + container.get("command", []))))
        given = {e["name"] for e in container.get("env", [])} | {"JOB_COMPLETION_INDEX"}
        want(used <= given, f"arguments use variables that nobody sets: {sorted(used - given)}")
    return problems


def policy_problems(name, spec):
    """Exit codes: hopeless ones fail the job, resumable ones are tried again."""
    policy = spec.get("podFailurePolicy")
    if policy is None:
        return [] if spec.get("backoffLimit") == 0 else [f"{name}: retries without looking at exit codes"]
    problems, actions, containers = [], {}, {c["name"] for c in spec["template"]["spec"]["containers"]}
    if policy["rules"][0].get("onPodConditions") != [{"type": "DisruptionTarget", "status": "True"}] or \
            policy["rules"][0]["action"] != "Ignore":
        problems.append(f"{name}: the first rule must ignore disruptions (a drained pod ends with 143)")
    for rule in policy["rules"][1:]:
        codes = rule.get("onExitCodes", {"values": []})
        if codes.get("operator") != "In" or codes.get("containerName") not in containers:
            problems.append(f"{name}: a rule that is not about exit codes of {sorted(containers)}")
        for value in codes["values"]:
            if actions.setdefault(value, rule["action"]) != rule["action"]:
                problems.append(f"{name}: exit code {value} stands in two rules")
    wanted = {**dict.fromkeys(HOPELESS, "FailJob"), **dict.fromkeys(ELSEWHERE | RESUMES, "Count")}
    if actions != wanted:
        problems.append(f"{name}: exit codes are {actions}, not {wanted}")
    return problems


def option(arguments, name):
    return arguments[arguments.index(name) + 1] if name in arguments else None


def arguments_of(container):
    """What warpmerge sees: args, or what follows it after mpirun."""
    words = container.get("command", []) + container.get("args", [])
    return words[words.index("warpmerge") + 1:] if "warpmerge" in words else words


def memory_bytes(text):
    return int(re.sub(r"\D", "", text)) << {"Gi": 30, "GiB": 30, "g": 30}[re.sub(r"\d", "", text)]


def device_problems(document):
    """A job that asks for GPUs says --device cuda: a merge without a driver would quietly run on the processors."""
    name = document["metadata"]["name"]
    containers = [c for _, template, _, _ in pods(document) for c in template["spec"]["containers"]]
    asked = any("nvidia.com/gpu" in c.get("resources", {}).get("limits", {}) for c in containers)
    merges = [w for w in map(arguments_of, containers) if w and w[0] in ("merge", "stats")]
    return [f"{name}: {'GPUs without' if asked else 'no GPUs, but'} --device cuda" for words in merges
            if (option(words, "--device") == "cuda") != asked]


def job_problems(document):
    """Numbers that stand in several places agree."""
    problems, name, spec = device_problems(document), document["metadata"]["name"], document["spec"]
    if document["kind"] == "Job":
        container = spec["template"]["spec"]["containers"][0]
        words = arguments_of(container)
        env = {e["name"]: e.get("value") for e in container.get("env", [])}
        part = option(words, "--part")
        indexed = spec.get("completionMode") == "Indexed"
        if part is not None and part != f"$(JOB_COMPLETION_INDEX)/{spec['completions']}":
            problems.append(f"{name}: --part {part} does not fit completions {spec['completions']}")
        if part is not None and not spec.get("backoffLimitPerIndex"):
            problems.append(f"{name}: parts need backoffLimitPerIndex")
        if "WARPMERGE_RANKS" in env:
            if not env["WARPMERGE_RANKS"] == str(spec["completions"]) == str(spec["parallelism"]):
                problems.append(f"{name}: WARPMERGE_RANKS, completions and parallelism differ")
            if "WARPMERGE_JOB" not in env:
                problems.append(f"{name}: ranks need WARPMERGE_JOB, another one for every run")
            if spec.get("backoffLimit") != 0:
                problems.append(f"{name}: a rank that comes back alone meets a run that is over")
        elif indexed and part is None:
            problems.append(f"{name}: with neither --part nor WARPMERGE_RANKS it merges everything in every pod")
        if not indexed and words[0] == "merge":
            problems.append(f"{name}: not indexed")
        budget = option(words, "--memory")
        limit = container["resources"]["limits"]["memory"]
        if budget and memory_bytes(budget) >= memory_bytes(limit):
            problems.append(f"{name}: --memory {budget} leaves no room in the limit {limit}")
    if document["kind"] == "MPIJob":
        launcher = spec["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
        ranks = spec["mpiReplicaSpecs"]["Worker"]["replicas"] * spec["slotsPerWorker"]
        if option(launcher["args"], "-n") != str(ranks):
            problems.append(f"{name}: mpirun -n is not {ranks}")
        if option(launcher["args"], "--bind-to") != "none":
            problems.append(f"{name}: Open MPI would bind each rank to one processor")
        passed = [after for word, after in zip(launcher["args"], launcher["args"][1:]) if word == "-x"]
        if passed != ["PATH", "LD_LIBRARY_PATH", "HF_HOME"]:
            problems.append(f"{name}: ssh does not carry the image's environment, and -x passes {passed}")
        worker = spec["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
        if worker.get("command") != ["/usr/sbin/sshd"] or "-f" not in worker.get("args", []):
            problems.append(f"{name}: the workers' sshd has no configuration of its own")
    return problems


def check_kubernetes():
    problems = []
    for path in KUBERNETES:
        found = schema_problems(path.read_text(encoding="utf-8"), path.name)
        if not found:
            for document in documents(path):
                for pod in pods(document):
                    found += pod_problems(*pod)
                if document["kind"] == "Job":
                    found += policy_problems(document["metadata"]["name"], document["spec"])
                found += job_problems(document)
        problems += found
    claims = {d["metadata"]["name"] for p in KUBERNETES for d in documents(p) if d["kind"] == "PersistentVolumeClaim"}
    used = {v["persistentVolumeClaim"]["claimName"] for p in KUBERNETES for d in documents(p) for _, t, _, _ in pods(d)
            for v in t["spec"]["volumes"] if "persistentVolumeClaim" in v}
    return problems if claims == used else problems + [f"claims {sorted(claims)} are not those used {sorted(used)}"]


def compose_problems(text, name="compose.yml"):
    try:
        [document] = schema.load_all(text)
    except (yaml.YAMLError, ValueError) as error:
        return [f"{name}: {error}"]
    problems = compose(document, name)
    if problems:
        return problems
    by_profile = {}
    for service, what in document["services"].items():
        words = what["command"]
        ranks = by_profile.setdefault(tuple(what.get("profiles", [])), [])
        ranks.append((option(words, "--rank"), option(words, "--ranks")))
        for condition, problem in (
                (what.get("read_only") is True, "must be read-only"),
                (what.get("cap_drop") == ["ALL"], "must drop capabilities"),
                (what.get("security_opt") == ["no-new-privileges:true"], "must not gain privileges"),
                (what["image"].removesuffix("-cpu") == f"warpmerge:{VERSION}", f"image tag must be {VERSION}"),
                ((ROOT / what["build"]["dockerfile"]).exists(), "its Dockerfile does not exist"),
                (("devices" in str(what.get("deploy"))) == (option(words, "--device") == "cuda"),
                 "GPUs or --device cuda alone"),
                (memory_bytes(option(words, "--memory")) < memory_bytes(what["mem_limit"]), "--memory is too much")):
            if not condition:
                problems.append(f"{name} {service}: {problem}")
    for profile, ranks in by_profile.items():
        if sorted(ranks) != [(str(k), str(len(ranks))) for k in range(len(ranks))]:
            problems.append(f"{name}: the ranks of {profile} are {ranks}")
    default = re.search(r"^COMPOSE_PROFILES=(\w+)$", (ROOT / "docker/.env").read_text(encoding="utf-8"), re.M)
    if not default or (default.group(1),) not in by_profile:
        problems.append("docker/.env names no profile of compose.yml")
    return problems


def planted():
    """Every check can fail: one change each, and the problem that must be told."""
    read = {p.name: p.read_text(encoding="utf-8") for p in KUBERNETES}
    indexed, ranks, mpi = read["merge-indexed-job.yaml"], read["merge-ranks-job.yaml"], read["mpijob.yaml"]
    text = (ROOT / "docker/compose.yml").read_text(encoding="utf-8")

    def kube(original, old, new):
        changed = original.replace(old, new, 1)
        assert changed != original, f"cannot plant: {old!r} is not there"
        problems = schema_problems(changed, "planted")
        if not problems:
            for document in schema.load_all(changed):
                for pod in pods(document):
                    problems += pod_problems(*pod)
                if document["kind"] == "Job":
                    problems += policy_problems("planted", document["spec"])
                problems += job_problems(document)
        return problems

    def comp(old, new):
        assert old in text, f"cannot plant: {old!r} is not there"
        return compose_problems(text.replace(old, new, 1))

    return [
        ("unknown key 'backofLimitPerIndex'", kube(indexed, "backoffLimitPerIndex:", "backofLimitPerIndex:")),
        ("containers is missing", kube(indexed, "      containers:", "      initContainers:")),
        ("completions: '8' is not", kube(indexed, "completions: 8", 'completions: "8"')),
        ("value: 4 is not a string", kube(ranks, 'value: "4"', "value: 4")),
        ("the key \"parallelism\" stands twice", kube(indexed, "parallelism: 8", "parallelism: 8\n  parallelism: 4")),
        ("'failJob' is not one of", kube(indexed, "FailJob", "failJob")),
        ("exit codes are", kube(indexed, "[2, 65, 66, 70, 73, 78]", "[2, 65, 66, 70, 73, 75, 78]")),
        ("exit codes are", kube(indexed, "[69, 75, 143]", "[69, 75, 137]")),
        ("exit codes are", kube(indexed, "[69, 75, 143]", "[75, 143]")),
        ("GPUs without --device cuda", kube(indexed, "            - --device\n            - cuda\n", "")),
        ("GPUs without --device cuda", kube(mpi, "                - cuda\n", "                - auto\n")),
        ("no GPUs, but", kube(ranks, "              nvidia.com/gpu: 1\n", "")),
        ("bind each rank", kube(mpi, "- none\n", "- core\n")),
        ("image's environment", kube(mpi, "                - -x\n                - HF_HOME\n", "")),
        ("must ignore disruptions", kube(indexed, "action: Ignore", "action: Count")),
        ("exactly one of onExitCodes, onPodConditions", 
         kube(indexed, "onPodConditions:", "onExitCodes: {operator: In, values: [1]}\n        onPodConditions:")),
        ("not root", kube(indexed, "runAsUser: 65532", "runAsUser: 0")),
        ("read-only", kube(indexed, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false")),
        ("image tag must be", kube(indexed, "warpmerge:0.1.0", "warpmerge:latest")),
        ("not an image with a tag", kube(indexed, "warpmerge:0.1.0", "warpmerge")),
        ("does not fit completions", kube(indexed, "completions: 8", "completions: 6")),
        ("variables that nobody sets", kube(indexed, "$(JOB_COMPLETION_INDEX)", "$(JOB_INDEX)")),
        ("leaves no room", kube(indexed, "16GiB", "24GiB")),
        ("volumes that are not there",
         kube(indexed, "name: scratch\n              mount", "name: tmp\n              mount")),
        ("not a quantity", kube(indexed, "memory: 24Gi", "memory: 24GiB")),
        ("WARPMERGE_RANKS, completions", kube(ranks, "parallelism: 4", "parallelism: 2")),
        ("merges everything in every pod", kube(ranks, "name: WARPMERGE_RANKS", "name: WARPMERGE_RANK")),
        ("comes back alone", kube(ranks, "backoffLimit: 0", "backoffLimit: 3")),
        ("field of the downward API", kube(ranks, "metadata.labels[", "metadata.label[")),
        ("mpirun -n is not 4", kube(mpi, '"4"', '"8"')),
        ("has to ascend", kube(indexed, "[2, 65, 66,", "[2, 66, 65,")),
        ("no configuration of its own", kube(mpi, "command: [/usr/sbin/sshd]", "workingDir: /tmp")),
        ("unknown key 'Workers'", kube(mpi, "    Worker:", "    Workers:")),
        ("unknown key 'profile'", comp("profiles:", "profile:")),
        ("the ranks of", comp('--rank, "1"', '--rank, "0"')),
        ("must be read-only", comp("read_only: true", "read_only: false")),
        ("--memory is too much", comp("mem_limit: 6g", "mem_limit: 4g")),
        ("--device cuda alone", comp("--device, cuda, ", "")),
        ("is not one of 'no'", comp('restart: "no"', "restart: no")),
    ]


def main():
    problems = check_kubernetes() + compose_problems((ROOT / "docker/compose.yml").read_text(encoding="utf-8"))
    told = HOPELESS | ELSEWHERE | RESUMES | BY_DEFAULT
    if exit_codes() != told:
        problems.append(f"warpmerge.h has the exit codes {sorted(exit_codes())}; this test sorts {sorted(told)}")
    cases = planted()
    for wanted, got in cases:
        if not any(wanted in line for line in got):
            problems.append(f"a planted fault was not found ({wanted!r}); told was {got}")
    for problem in problems:
        print(problem)
    print(f"{len(KUBERNETES)} manifests, {len(exit_codes())} exit codes, {len(cases)} planted faults, "
          f"{len(problems)} problems")
    return 1 if problems or len(KUBERNETES) < 6 else 0


if __name__ == "__main__":
    sys.exit(main())
