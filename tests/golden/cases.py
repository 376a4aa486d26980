"""The grid of golden cases: what is merged, and how strictly the result is compared.

What lives here: one entry a case, as a mergekit config. What it must not know: mergekit itself, torch, files.

How a case is compared (`compare`):
  exact      every bit of every element
  close      1e-6 relative (check.py says to what exactly): methods with norms and angles, and sums whose order
             torch does not fix
  bf16       at least 99.9 % of the elements equal, the rest within one unit in the last place
  either     every element is bit for bit the base's or the expected one (a random mask), in about the given share
"""


def model(name, **parameters):
    entry = {"model": "models/" + name}
    if parameters:
        entry["parameters"] = parameters
    return entry


def config(method, models, base=None, parameters=None, **rest):
    out = {"merge_method": method, "models": models}
    if base:
        out["base_model"] = "models/" + base
    if parameters:
        out["parameters"] = parameters
    return {**out, "dtype": "float32", **rest}


def when(*pairs):
    """[(filter, value), ..., value] as mergekit's conditional list."""
    return [{"filter": p[0], "value": p[1]} if isinstance(p, tuple) else {"value": p} for p in pairs]


def tuned(family, weights, **parameters):
    """ft1..ftN with these weights; a list among the parameters gives each model its own."""
    return [model(f"{family}/ft{i + 1}", weight=w,
                  **{k: v[i] if isinstance(v, list) else v for k, v in parameters.items()})
            for i, w in enumerate(weights)]


def linear_cases():
    def mean(weights, family="a"):
        return [model(f"{family}/" + ("base" if i == 0 else f"ft{i}"), weight=w) for i, w in enumerate(weights)]

    yield "linear_1", "exact", config("linear", mean([0.7], "b"))
    yield "linear_1_plain", "exact", config("linear", mean([0.7], "b"), parameters={"normalize": False})
    yield "linear_2", "exact", config("linear", mean([0.6, 0.4]))
    yield "linear_2_fp32", "exact", config("linear", mean([0.6, 0.4], "b"))
    yield "linear_2_plain", "exact", config("linear", mean([0.3, 0.9]), parameters={"normalize": False})
    yield "linear_3", "exact", config("linear", mean([0.5, 0.3, 0.3]))
    yield "linear_3_negative", "exact", config("linear", mean([1.0, 0.7, -0.4], "b"))
    yield "linear_3_integers", "exact", config("linear", mean([1, 2, 3], "b"), parameters={"normalize": True})
    yield "linear_4", "exact", config("linear", mean([0.1, 0.2, 0.3, 0.7]))
    yield "linear_4_fp32", "exact", config("linear", mean([0.1, 0.2, 0.3, 0.7], "b"))
    yield "linear_5", "exact", config("linear", mean([0.5, 0.125, 0.25, 1.0, 0.375]))
    yield "linear_5_sum_order", "close", config("linear", mean([0.1, 0.2, 0.3, 0.4, 0.6]))
    yield "linear_6_mixed_types", "exact", config("linear", mean([0.5, 0.125, 0.25, 1.0, 0.375, 0.25]))
    yield "linear_gradient", "exact", config("linear", [
        model("b/base", weight=[1.0, 0.6, 0.0]), model("b/ft1", weight=[0.1, 0.9])])
    yield "linear_filters", "exact", config("linear", [
        model("b/base", weight=when(("self_attn", 0.9), ("mlp.down", [0.2, 0.5, 0.4]), 0.5)),
        model("b/ft2", weight=when(("layers.2", 0.15), ("*", 0.35)))])
    yield "linear_fall_through", "exact", config("linear", [
        model("b/base", weight=when(("self_attn", 0.9))), model("b/ft3")],
        parameters={"weight": when(("embed", 0.8), 0.45)})
    yield "linear_base_appended", "exact", config("linear", [model("b/ft1", weight=0.3), model("b/ft2", weight=0.5)],
                                                  base="b/base", parameters={"weight": 0.2})
    yield "linear_yaml_scalars", "exact", config("linear", [model("b/base", weight="0.25"),
                                                            model("b/ft1", weight="5e-1")],
                                                 parameters={"normalize": 1})


def task_arithmetic_cases():
    def ta(weights, family="a", parameters=None, **rest):
        return config("task_arithmetic", tuned(family, weights), family + "/base", parameters, **rest)

    yield "ta_1", "exact", ta([1.0])
    yield "ta_1_lambda", "exact", ta([0.7], "b", {"lambda": 0.3})
    yield "ta_2", "exact", ta([0.6, 0.8])
    yield "ta_2_fp32", "exact", ta([0.6, 0.8], "b")
    yield "ta_3_negative", "exact", ta([0.9, -0.5, 0.4])
    yield "ta_3_normalize", "exact", ta([0.9, 0.5, 0.4], "b", {"normalize": True})
    yield "ta_4", "exact", ta([0.3, 0.4, 0.5, 0.6])
    yield "ta_4_normalize_lambda", "exact", ta([0.3, -0.4, 0.5, 0.6], "b", {"normalize": True, "lambda": 1.7})
    yield "ta_5", "exact", ta([0.3, 0.4, 0.5, 0.6, -0.2])
    yield "ta_zero_sum_normalize", "exact", ta([0.5, -0.5], "b", {"normalize": True})
    yield "ta_base_listed", "exact", config(
        "task_arithmetic", [model("b/ft1", weight=0.4), model("b/base"), model("b/ft3", weight=0.8)], "b/base")
    yield "ta_gradient_filters", "exact", config("task_arithmetic", [
        model("b/ft1", weight=[0.0, 0.25, 1.0]),
        model("b/ft2", weight=when(("mlp", [0.1, 0.7]), ("norm", 0.0), 0.3))], "b/base",
        {"lambda": when(("layers.3", 0.5), ("q_proj", [1.0, 0.4]), 1.1)})


def ties_cases():
    def ties(weights, density, family="a", parameters=None, **rest):
        return config("ties", tuned(family, weights, density=density), family + "/base", parameters, **rest)

    for density in (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1):
        yield f"ties_2_d{density}", "exact", ties([0.6, 0.4], density)
    yield "ties_1", "exact", ties([1.0], 0.3)
    yield "ties_1_fp32", "exact", ties([0.8], 0.55, "b")
    yield "ties_2_fp32", "exact", ties([0.6, 0.4], 0.5, "b")
    yield "ties_2_plain", "exact", ties([0.6, 0.4], 0.5, parameters={"normalize": False})
    yield "ties_2_negative", "exact", ties([0.9, -0.6], 0.4)
    yield "ties_2_opposite", "exact", ties([0.5, -0.5], 0.6, "b")
    yield "ties_3", "exact", ties([0.5, 0.3, 0.4], 0.3)
    yield "ties_3_densities", "exact", ties([0.5, 0.3, 0.4], [0.2, 0.5, 0.8])
    yield "ties_3_lambda_fp32", "exact", ties([0.5, 0.3, 0.4], [0.9, 0.3, 0.6], "b", {"lambda": 0.6})
    yield "ties_3_negative_plain", "exact", ties([0.7, -0.2, 0.3], 0.35, "b", {"normalize": False, "lambda": 1.5})
    yield "ties_4", "exact", ties([0.5, 0.3, 0.4, 0.7], 0.4)
    yield "ties_4_fp32", "exact", ties([0.5, 0.3, 0.4, 0.7], [0.25, 0.5, 0.75, 1.0], "b")
    yield "ties_5", "exact", ties([0.5, 0.3, 0.4, 0.7, -0.3], 0.5)
    yield "ties_int8_mask", "exact", ties([0.5, 0.3, 0.4], 0.3, "b", {"int8_mask": True})
    yield "ties_fewer_than_one", "exact", ties([0.6, 0.4], 0.05, "b")
    yield "ties_density_zero", "exact", ties([0.6, 0.4], [0.0, 0.5], "b")
    yield "ties_truncated_k", "exact", ties([0.6, 0.4], [0.29, 0.57], "b")
    yield "ties_gradient", "exact", config("ties", [
        model("b/ft1", weight=0.6, density=[1, 0.7, 0.1]),
        model("b/ft2", weight=[0, 0.3, 0.7, 1], density=0.5)], "b/base", {"normalize": True})
    yield "ties_filters", "exact", config("ties", [
        model("b/ft1", weight=when(("mlp", 0.5), 0), density=[1, 0.7, 0.1]),
        model("b/ft3", weight=when(("q_proj", -0.4), ("layers.1", 0.9), 0.35),
              density=when(("proj", 0.33), ("norm", 1.0), 0.6))], "b/base", {"lambda": [0.5, 1.5]})
    yield "ties_single_condition", "exact", config(
        "ties", [model("b/ft1", weight=0.6, density={"filter": "mlp", "value": 0.4}), model("b/ft2", weight=0.5)],
        "b/base", {"density": 0.8})
    yield "ties_rescale", "close", ties([0.6, 0.4], 0.3, parameters={"rescale": True})
    yield "ties_3_rescale_fp32", "close", ties([0.6, 0.4, -0.3], 0.5, "b", {"rescale": True, "normalize": False})


def dare_cases():
    yield "dare_linear_density_1", "exact", config("dare_linear", tuned("a", [0.6, 0.5], density=1.0), "a/base")
    yield "dare_ties_density_1", "exact", config("dare_ties", tuned("a", [0.6, 0.5, -0.4], density=1.0), "a/base")
    yield "dare_ties_normalize", "exact", config("dare_ties", tuned("b", [0.6, 0.5], density=1.0), "b/base",
                                                 {"normalize": True, "lambda": 0.8})
    # The expected numbers are those of density 1; the mask itself is ours, and random.
    yield "dare_linear_mask", "either", config("dare_linear", tuned("b", [1.0], density=0.4), "b/base",
                                               {"rescale": False})


def slerp_cases():
    def slerp(one, two, t, base):
        return config("slerp", [model(one), model(two)], base, {"t": t})

    yield "slerp_near", "close", slerp("a/base", "a/ft1", 0.35, "a/base")
    yield "slerp_far", "close", slerp("b/base", "b/other", 0.35, "b/base")
    yield "slerp_far_reversed", "close", slerp("b/base", "b/other", 0.35, "b/other")
    yield "slerp_ft", "close", slerp("b/ft1", "b/ft4", 0.6, "b/ft1")
    yield "slerp_opposite", "close", slerp("b/base", "b/anti", 0.25, "b/base")
    yield "slerp_t0", "close", slerp("b/base", "b/other", 0, "b/base")
    yield "slerp_t1", "close", slerp("b/base", "b/other", 1, "b/base")
    yield "slerp_beyond", "close", slerp("b/base", "b/other", 1.3, "b/base")
    yield "slerp_gradient", "close", slerp("b/base", "b/other", [0.1, 0.9], "b/base")
    yield "slerp_filters", "close", slerp("b/base", "b/other", when(
        ("self_attn", [0, 0.5, 0.3, 0.7, 1]), ("mlp", [1, 0.5, 0.7, 0.3, 0]), 0.5), "b/base")


def nuslerp_cases():
    def nuslerp(one, two, weights, base=None, **parameters):
        return config("nuslerp", [model(one, weight=weights[0]), model(two, weight=weights[1])], base, parameters)

    yield "nuslerp", "close", nuslerp("b/ft1", "b/other", [0.6, 0.4])
    yield "nuslerp_near", "close", nuslerp("a/ft1", "a/ft2", [0.5, 0.75])
    yield "nuslerp_rows", "close", nuslerp("b/ft1", "b/other", [0.6, 0.4], nuslerp_flatten=False)
    yield "nuslerp_columns", "close", nuslerp("b/ft1", "b/other", [0.6, 0.4], nuslerp_flatten=False,
                                              nuslerp_row_wise=True)
    yield "nuslerp_base", "close", nuslerp("a/ft1", "a/ft3", [0.6, 0.4], "a/base")
    yield "nuslerp_base_fp32", "close", nuslerp("b/ft1", "b/ft2", [0.3, 0.9], "b/base")
    yield "nuslerp_base_rows", "close", nuslerp("b/ft1", "b/ft2", [0.3, 0.9], "b/base", nuslerp_flatten=False)
    yield "nuslerp_base_columns", "close", nuslerp("b/ft1", "b/ft2", [0.3, 0.9], "b/base", nuslerp_flatten=False,
                                                   nuslerp_row_wise=True)
    yield "nuslerp_weights_cancel", "close", nuslerp("b/ft1", "b/other", [0.5, -0.5])
    yield "nuslerp_gradient", "close", nuslerp("b/ft1", "b/other", [[1.0, 0.2], when(("mlp", 0.9), [0.0, 1.0])])


def passthrough_cases():
    yield "passthrough", "exact", config("passthrough", [model("a/ft2")])
    yield "passthrough_scale", "exact", config("passthrough", [model("b/ft1", scale=0.7)])
    yield "passthrough_filters", "exact", config("passthrough", [
        model("b/ft2", scale=when(("o_proj", 0), ("down_proj", [0.5, 1.5]), 1.0))])


def bf16_cases():
    """dtype float32 with out_dtype bfloat16: mergekit's fp32 arithmetic, rounded once."""
    for name, _, case in list(linear_cases()) + list(task_arithmetic_cases()) + list(ties_cases()) + \
            list(slerp_cases()) + list(nuslerp_cases()):
        if name in ("linear_2", "linear_3_negative", "ta_2", "ta_4_normalize_lambda", "ties_2_d0.5", "ties_3_densities",
                    "ties_4_fp32", "ties_rescale", "slerp_far", "nuslerp_base"):
            yield name + "_bf16", "bf16", {**case, "out_dtype": "bfloat16"}


def all_cases():
    for group in (linear_cases, task_arithmetic_cases, ties_cases, dare_cases, slerp_cases, nuslerp_cases,
                  passthrough_cases, bf16_cases):
        yield from group()
