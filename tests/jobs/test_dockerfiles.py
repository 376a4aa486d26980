#!/usr/bin/env python3
"""The Dockerfiles: syntax, sources that exist, pinned images, packages from one list, an unprivileged final image; and
what they copy is enough to configure the build.

usage: test_dockerfiles.py
Nothing is built here: run_dockerfile.py executes the steps, by hand and as root.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import dockerfile
from dockerfile import Malformed

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "docker").glob("Dockerfile*"))
IGNORE = dockerfile.Ignore((ROOT / ".dockerignore").read_text(encoding="utf-8"))
HEADER = (ROOT / "include/warpmerge.h").read_text(encoding="utf-8")
VERSION = re.search(r'#define WM_VERSION "([^"]+)"', HEADER).group(1)
LABELS = {"title", "description", "version", "revision", "licenses", "base.name"}


def image_problems(stage, stages, text):
    earlier = {s.name for s in stages[:stages.index(stage)] if s.name}
    if stage.image in earlier:
        return []
    image = re.fullmatch(r"([\w./-]+):([\w.-]+)(@sha256:[0-9a-f]{64})?", stage.image)
    if not image:
        return [f"the image {stage.image} has no tag"]
    problems = []
    if image.group(2) == "latest" or not re.search(r"\d", image.group(2)):
        problems.append(f"the tag of {stage.image} names no version")
    own = image.group(1) == "warpmerge"
    if own and not re.fullmatch(re.escape(VERSION) + "(-cpu)?", image.group(2)):
        problems.append(f"{stage.image} is not version {VERSION}")
    if not own and not image.group(3) and "_DIGEST}" not in text:
        problems.append(f"{stage.image} cannot be pinned by content: no ..._DIGEST argument")
    return problems


def copy_problems(instruction, stages, stage):
    words = instruction.words or instruction.text.split()
    problems = []
    if len(words) < 2:
        return [f"line {instruction.line}: COPY needs a source and a destination"]
    if len(words) > 2 and not words[-1].endswith("/"):
        problems.append(f"line {instruction.line}: the destination of several sources ends in /")
    if "from" in instruction.flags:
        if instruction.flags["from"] not in {s.name for s in stages[:stages.index(stage)]}:
            problems.append(f"line {instruction.line}: no stage {instruction.flags['from']} before")
        return problems
    for source in words[:-1]:
        if not dockerfile.context_files(ROOT, source, IGNORE):
            problems.append(f"line {instruction.line}: {source} does not exist or is ignored by .dockerignore")
        elif source.endswith("/") != (ROOT / source).is_dir():
            problems.append(f"line {instruction.line}: {source}: folders, and only they, end in /")
    return problems


def run_problems(instruction, presets):
    text, at = instruction.text, f"line {instruction.line}"
    problems = []
    for pattern, what in ((r"\b(apt|apt-get|pip3?) +(-\S+ +)*install\b", "packages come from docker/install-deps.sh"),
                          (r"\b(curl|wget|git clone)\b", "nothing is downloaded but packages"),
                          (r"rm [^&|;]*/var/lib/dpkg", "the package database stays"),
                          (r"chmod [^&|;]*(u\+s|[4267]7\d\d)", "no set-user-ID files")):
        if re.search(pattern, text):
            problems.append(f"{at}: {what}")
    for preset in re.findall(r"--preset (\S+)", text):
        if preset not in presets:
            problems.append(f"{at}: no preset {preset}")
    for arguments in re.findall(r"(?:^|&& )\S*install-deps\.sh((?: --[a-z]+(?: \"[^\"]*\")?)*)", text):
        words = [w for w in re.sub(r'"[^"]*"', "1", arguments).split()]
        r = subprocess.run(["sh", ROOT / "docker/install-deps.sh", *words, "--list"], capture_output=True, text=True)
        if r.returncode or not words:
            problems.append(f"{at}: install-deps.sh{arguments}: {r.stderr.strip() or 'installs what tests need'}")
    return problems


def final_problems(stage, own_base):
    """What the image that ships must be. `own_base`: it is built on a warpmerge image, which brings the rest."""
    problems = []
    user = stage.last("USER")
    if not user or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user.text):
        problems.append("the final USER is not two numbers other than 0")
    elif stage.instructions.index(user) < max(stage.instructions.index(i) for i in stage.all("RUN")):
        problems.append("a RUN comes after the final USER")
    runs = stage.all("RUN")
    if not any(re.search(r"-perm /6000 .*chmod a-s", r.text) for r in runs[-1:]):
        problems.append("the last RUN does not take set-user-ID bits away")
    for r in runs:
        if "install-deps.sh" in r.text and "/var/lib/apt/lists" not in r.text:
            problems.append(f"line {r.line}: package lists stay in the layer")
    entry = stage.last("ENTRYPOINT")
    if own_base:
        wanted = entry and entry.words == []
        return problems if wanted else problems + ["mpirun and sshd are not started by an entrypoint"]
    if not entry or entry.words != ["warpmerge"]:
        problems.append('ENTRYPOINT is not ["warpmerge"]: behind a shell it would not be process 1')
    check = stage.last("HEALTHCHECK")
    if not check or not check.text.endswith("NONE"):
        problems.append("HEALTHCHECK is not NONE: a job's health is its exit code")
    labels = {}
    for instruction in stage.all("LABEL"):
        labels.update(dockerfile.assignments(instruction.text, instruction.line))
    prefix = "org.opencontainers.image."
    if set(labels) != {prefix + name for name in LABELS}:
        problems.append(f"labels are {sorted(labels)}")
    elif labels[prefix + "version"] != VERSION or labels[prefix + "base.name"].split("/", 1)[1].split("/")[-1] != \
            stage.image.split("@")[0].split("/")[-1]:
        problems.append("the labels version or base.name are not true")
    copied = [i.text.split()[-1] for i in stage.all("COPY")]
    if "/usr/share/doc/warpmerge/" not in copied or "/usr/local/bin/warpmerge" not in copied:
        problems.append("the program or the licences are not copied")
    return problems


def problems_of(text):
    presets = re.findall(r'"name": "([\w-]+)"', (ROOT / "CMakePresets.json").read_text(encoding="utf-8"))
    try:
        stages = dockerfile.parse(text)
    except Malformed as error:
        return [str(error)]
    problems = []
    for stage in stages:
        problems += image_problems(stage, stages, text)
        for instruction in stage.all("COPY"):
            problems += copy_problems(instruction, stages, stage)
        for instruction in stage.all("RUN"):
            problems += run_problems(instruction, presets)
    return problems + final_problems(stages[-1], stages[-1].image.startswith("warpmerge:"))


def configure_problems(path):
    """CMake configures from what the build stage copies, and from nothing else: no source file is forgotten."""
    if not shutil.which("cmake"):
        print("      (no cmake: not configured)")
        return []
    build = dockerfile.parse(path.read_text(encoding="utf-8"))[0]
    with tempfile.TemporaryDirectory(prefix="wm-context-") as folder:
        source = Path(folder, "src")
        for instruction in build.all("COPY"):
            for word in instruction.text.split()[:-1]:
                for file in dockerfile.context_files(ROOT, word, IGNORE):
                    (source / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / file, source / file)
        r = subprocess.run(["cmake", "-S", source, "-B", Path(folder, "build"), "-G", "Ninja", "-DWM_TESTS=OFF",
                            "-DWM_CUDA=OFF"],
                           capture_output=True, text=True)
        return [f"{path.name}: {r.stderr.strip()}"] if r.returncode else []


def planted():
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    cases = []
    strip = "\nRUN find / -perm /6000 -exec chmod a-s {} +"

    def plant(wanted, old, new, last=False):
        assert old in text, f"cannot plant: {old!r} is not there"
        changed = new.join(text.rsplit(old, 1)) if last else text.replace(old, new, 1)
        cases.append((wanted, problems_of(changed)))

    plant("RUNN is no instruction", "RUN /src", "RUNN /src")
    plant("is not set here", "ARG CUDA_VERSION\n", "")
    plant("has no tag", ":${CUDA_VERSION}-devel-ubuntu24.04${DEVEL_DIGEST}", "")
    plant("names no version", "${CUDA_VERSION}-devel-ubuntu24.04", "latest")
    plant("kernel/ does not exist", "COPY kernels/ kernels/", "COPY kernel/ kernels/")
    plant("README.md does not exist or is ignored", "LICENSE ./", "LICENSE README.md ./")
    plant("end in /", "COPY host/ host/", "COPY host host/")
    plant("no stage builder before", "--from=build /nccl", "--from=builder /nccl")
    plant("COPY has no option", "--from=build /nccl", "--form=build /nccl")
    plant("no preset release-gpu", "--preset release-cuda", "--preset release-gpu")
    plant("packages come from", "RUN /src/docker/install-deps.sh --build", "RUN apt-get -y install gcc")
    plant("usage: docker/install-deps.sh", "--runtime --nccl", "--runtimes --nccl")
    plant("installs what tests need", "install-deps.sh --build", "install-deps.sh")
    plant("the package database stays", "/var/lib/apt/lists/*", "/var/lib/apt/lists/* /var/lib/dpkg")
    plant("nothing is downloaded", "RUN cp LICENSE", "RUN curl example.org && cp LICENSE")
    plant("the final USER is not", "USER 65532:65532", "USER nobody")
    plant("the final USER is not", "USER 65532:65532", "USER 0:0")
    plant("a RUN comes after", "USER 65532:65532", "USER 65532:65532" + strip)
    plant("set-user-ID bits", "-perm /6000", "-perm /4000")
    plant("behind a shell", 'ENTRYPOINT ["warpmerge"]', "ENTRYPOINT warpmerge")
    plant("is not JSON", '["--help"]', "['--help']")
    plant("HEALTHCHECK takes CMD", "HEALTHCHECK NONE", "HEALTHCHECK CMD warpmerge env")
    plant("HEALTHCHECK is not NONE", "HEALTHCHECK NONE", 'HEALTHCHECK CMD ["warpmerge", "env"]')
    plant("labels are", 'org.opencontainers.image.licenses="Apache-2.0" \\\n', "\\\n")
    plant("not true", "ARG VERSION=0.1.0", "ARG VERSION=0.0.9")
    plant("licences are not copied", "COPY --from=build /licences/ /usr/share/doc/warpmerge/\n", "")
    plant("package lists stay", " /var/lib/apt/lists/* ", " ", last=True)
    plant("ends within an instruction", 'CMD ["--help"]\n', 'CMD ["--help"] \\\n')
    return cases


def main():
    problems = [f"{path.name}: {problem}" for path in FILES
                for problem in problems_of(path.read_text(encoding="utf-8"))]
    if len(FILES) != 3:
        problems.append(f"found {len(FILES)} Dockerfiles")
    problems += configure_problems(ROOT / "docker/Dockerfile.cpu")
    ignored = {p: IGNORE.ignores(p) for p in (".git/config", "build/release/x.c", "host/base/text.c", "README.md",
                                              "host/base/x.o", "docker/install-deps.sh", "hosts/a")}
    if list(ignored.values()) != [True, True, False, True, True, False, True]:
        problems.append(f".dockerignore: {ignored}")
    cases = planted()
    for wanted, got in cases:
        if not any(wanted in line for line in got):
            problems.append(f"a planted fault was not found ({wanted!r}); told was {got}")
    for problem in problems:
        print(problem)
    print(f"{len(FILES)} Dockerfiles, {len(cases)} planted faults, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
