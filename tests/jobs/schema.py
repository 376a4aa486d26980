"""A strict schema in a few functions: every key is known, required keys are there, values have their type.

What lives here: the words that schemas of manifests are written in. What it must not know: which manifests. A schema
is a function (value, path) -> list of problems; a problem is one line that begins with the path.
"""

import re

import yaml


class UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML lets the last of two equal keys win; here that is an error, as it is for the Kubernetes API."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                text = f'the key "{key}" stands twice'
                raise yaml.constructor.ConstructorError(None, None, text, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_all(text):
    return [d for d in yaml.load_all(text, UniqueKeyLoader) if d is not None]


def typed(name, test):
    def check(value, path):
        return [] if test(value) else [f"{path}: {value!r} is not {name}"]
    return check


STRING = typed("a string (quote it)", lambda v: isinstance(v, str))
BOOL = typed("true or false", lambda v: isinstance(v, bool))
COUNT = typed("a whole number from 0", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0)
POSITIVE = typed("a whole number from 1", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1)
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
QUANTITY = typed("a quantity such as 500m, 8, 24Gi", lambda v: isinstance(v, (str, int)) and not isinstance(v, bool)
                 and re.fullmatch(r"\d+(\.\d+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?", str(v)))
DNS_NAME = typed("a DNS label", lambda v: isinstance(v, str) and len(v) <= 63
                 and re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", v))
ABSOLUTE = typed("an absolute path", lambda v: isinstance(v, str) and v.startswith("/"))


def one_of(*values):
    return typed("one of " + ", ".join(map(repr, values)), lambda v: type(v) in map(type, values) and v in values)


def matching(pattern, name):
    return typed(name, lambda v: isinstance(v, str) and re.fullmatch(pattern, v))


def list_of(item, least=1):
    def check(value, path):
        if not isinstance(value, list):
            return [f"{path}: not a list"]
        problems = [] if len(value) >= least else [f"{path}: needs {least} or more entries"]
        for i, v in enumerate(value):
            problems += item(v, f"{path}[{i}]")
        return problems
    return check


def ascending(item):
    """A list in ascending order without duplicates."""
    inner = list_of(item)

    def check(value, path):
        problems = inner(value, path)
        if not problems and any(a >= b for a, b in zip(value, value[1:])):
            problems.append(f"{path}: has to ascend")
        return problems
    return check


def map_of(value_schema, key=STRING):
    def check(value, path):
        if not isinstance(value, dict):
            return [f"{path}: not a mapping"]
        return [p for k, v in value.items() for p in key(k, f"{path} key") + value_schema(v, f"{path}.{k}")]
    return check


def obj(required=None, **optional):
    """`required`: {key: schema}. Keys that are Python keywords go there or into a dict that is passed with **."""
    required = required or {}
    known = {**required, **optional}

    def check(value, path):
        if not isinstance(value, dict):
            return [f"{path}: not a mapping"]
        problems = [f"{path}: {key} is missing" for key in required if key not in value]
        for key, v in value.items():
            problems += known[key](v, f"{path}.{key}") if key in known else [f"{path}: unknown key {key!r}"]
        return problems
    return check


def exactly_one(names, schema):
    """`schema`, and exactly one of the keys `names`."""
    def check(value, path):
        problems = schema(value, path)
        if isinstance(value, dict) and sum(n in value for n in names) != 1:
            problems.append(f"{path}: exactly one of {', '.join(names)}")
        return problems
    return check
