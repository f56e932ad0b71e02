"""Measurements of what the program adds to the work itself. Each file is one command that prints a small table:

    python -m bench.native_step      a training step against the denoiser's bare forward and backward pass
    python -m bench.start_up         the time until an answer, against what importing Hydra alone takes
    python -m bench.journal_cost     the journal and its feed to MLflow, as a share of a step
    python -m bench.scan             the scan of a folder of pictures, against Pillow's bare decoding; its memory
    python -m bench.cache            the time to the first step where all is encoded, against an empty cache
    python -m bench.sweep            a sweep of short trials, against the same runs one after the other
    python -m bench.detect_cost      looking into a model file of 7 GB, against opening it with the safetensors library

Ratios are measured within one run, alternating, so that they hold on any machine; nothing is asserted. All but
`start_up` start from what the tests start from, and need the test extra (`make test`).
"""
