"""The methods that AdaptInfer is compared with: one file each, loaded by name through their entry points."""

if __name__ != "adaptinfer_eval.baselines":
    raise ImportError(
        "the baselines are part of adaptinfer_eval: install the project and ask for them by name, "
        "adaptinfer_eval.get_method('fastv')"
    )
