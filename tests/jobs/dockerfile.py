"""Reads the subset of the Dockerfile language that ours use: ARG FROM RUN COPY ENV WORKDIR USER LABEL ENTRYPOINT CMD
HEALTHCHECK, with line continuations, JSON forms and ${VARIABLE}.

What lives here: syntax, stages with their variables, .dockerignore. What it must not know: what is in our images.
Reference: docs.docker.com/reference/dockerfile.
"""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = {"ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "LABEL", "ENTRYPOINT", "CMD", "HEALTHCHECK"}
FLAGS = {"COPY": {"from", "chown", "chmod"}, "HEALTHCHECK": {"interval", "timeout", "retries", "start-period"},
         "FROM": {"platform"}}


class Malformed(Exception):
    pass


@dataclass
class Instruction:
    name: str
    flags: dict
    text: str    # after the flags, variables replaced where Docker replaces them
    words: list  # of the JSON form; else None
    line: int


@dataclass
class Stage:
    image: str          # with variables replaced
    name: str           # after AS, or ""
    instructions: list = field(default_factory=list)
    environment: dict = field(default_factory=dict)  # ARG and ENV as RUN sees them at the end

    def last(self, name):
        found = [i for i in self.instructions if i.name == name]
        return found[-1] if found else None

    def all(self, name):
        return [i for i in self.instructions if i.name == name]


def logical_lines(text):
    """(line number, text) with continuations joined; comments between continued lines are skipped, as Docker does."""
    joined, began = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        began = began or number
        stripped = line.rstrip()
        if stripped.endswith("\\"):
            joined += stripped[:-1]
            continue
        yield began, joined + stripped
        joined, began = "", 0
    if joined:
        raise Malformed(f"line {began}: the file ends within an instruction")


def replace(text, variables, line):
    """${NAME}, $NAME and ${NAME:-default}."""
    def value(match):
        name, default = match.group(1) or match.group(3), match.group(2)
        if variables.get(name):
            return variables[name]
        if default is not None:
            return default
        if name not in variables:
            raise Malformed(f"line {line}: ${name} is not set here (an ARG before FROM is repeated in its stage)")
        return ""
    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}|\$(\w+)", value, text)


def split_flags(name, rest, line):
    flags = {}
    while rest.startswith("--"):
        word, _, rest = rest.partition(" ")
        key, equals, value = word[2:].partition("=")
        if not equals or key not in FLAGS.get(name, ()):
            raise Malformed(f"line {line}: {name} has no option {word}")
        flags[key] = value
        rest = rest.strip()
    return flags, rest


def json_words(name, rest, line):
    """The JSON form, for instructions that have one; a broken one would silently be a shell command."""
    if name not in ("RUN", "ENTRYPOINT", "CMD", "COPY") or not rest.startswith("["):
        return None
    try:
        words = json.loads(rest)
    except ValueError as error:
        raise Malformed(f"line {line}: {rest} is not JSON ({error})") from None
    if not all(isinstance(w, str) for w in words):
        raise Malformed(f"line {line}: only strings may be in {rest}")
    return words


def assignments(rest, line):
    words = shlex.split(rest)
    pairs = [w.partition("=") for w in words]
    if not pairs or not all(equals for _, equals, _ in pairs):
        raise Malformed(f"line {line}: expected NAME=VALUE in {rest}")
    return {name: value for name, _, value in pairs}


def parse(text, build_args=None):
    """A list of Stage. Raises Malformed with the line."""
    build_args = build_args or {}
    declared, stages, scope = {}, [], {}

    for line, whole in logical_lines(text):
        name, _, rest = whole.strip().partition(" ")
        if name not in KNOWN:
            raise Malformed(f"line {line}: {name} is no instruction of ours")
        flags, rest = split_flags(name, rest.strip(), line)
        if not rest:
            raise Malformed(f"line {line}: {name} needs an argument")
        if name == "ARG":
            argument, equals, default = rest.partition("=")
            if not re.fullmatch(r"[A-Z][A-Z0-9_]*", argument):
                raise Malformed(f"line {line}: {argument} is no name")
            known = scope if stages else declared
            if argument in build_args:
                known[argument] = build_args[argument]
            elif equals:
                known[argument] = replace(default.strip('"'), known, line)
            elif stages and argument in declared:
                known[argument] = declared[argument]
            else:
                raise Malformed(f"line {line}: ARG {argument} has no value")
            continue
        if name == "FROM":
            words = replace(rest, declared, line).split()
            if len(words) not in (1, 3) or (len(words) == 3 and words[1] != "AS"):
                raise Malformed(f"line {line}: FROM IMAGE [AS NAME]")
            scope = {}
            stages.append(Stage(words[0], words[2] if len(words) == 3 else "", [], scope))
            continue
        if not stages:
            raise Malformed(f"line {line}: {name} before the first FROM")
        if name in ("COPY", "ENV", "LABEL", "WORKDIR", "USER"):
            rest = replace(rest, scope, line)
        if name == "ENV":
            scope.update(assignments(rest, line))
        if name == "LABEL":
            assignments(rest, line)
        if name == "HEALTHCHECK" and rest != "NONE" and not rest.startswith("CMD ["):
            raise Malformed(f"line {line}: HEALTHCHECK takes CMD in its JSON form, or NONE")
        if name in ("COPY", "HEALTHCHECK"):
            flags = {k: replace(v, scope, line) for k, v in flags.items()}
        stages[-1].instructions.append(Instruction(name, flags, rest, json_words(name, rest, line), line))
    if not stages:
        raise Malformed("no FROM")
    return stages


class Ignore:
    """.dockerignore: the last pattern that fits a path or one of its folders decides."""

    def __init__(self, text):
        self.rules = []
        for line in text.splitlines():
            line = line.strip()
            if line and not line.startswith("#"):
                keep = line.startswith("!")
                self.rules.append((keep, self.expression(line.lstrip("!").strip("/"))))

    @staticmethod
    def expression(pattern):
        out = ""
        for token in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", pattern):
            out += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token) or re.escape(token)
        return re.compile(out + "(?:/.*)?")

    def ignores(self, path):
        ignored = False
        for keep, expression in self.rules:
            if expression.fullmatch(str(path)):
                ignored = not keep
        return ignored


def context_files(root, source, ignore):
    """Files below `source` in the build context, as paths relative to `root`."""
    start = Path(root, source)
    found = [start] if start.is_file() else sorted(p for p in start.rglob("*") if p.is_file() or p.is_symlink())
    return [p.relative_to(root) for p in found if not ignore.ignores(p.relative_to(root))]
