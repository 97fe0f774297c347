"""Whether a version may become the current one: what it answers on the device, judged before.

1. `reference.py`: the checkpoint answers some of the built-in prompts on this machine, greedily,
   with its log-probabilities. The answers are kept in the cache directory.
2. `examine.py`: the new version answers the same prompts on the device, and the tasks. It is in
   `versions/` there, and is not `current` yet.
3. `agreement.py`: how often both find the same token most likely after the same text, and the
   divergence (KL) of the device's probabilities. A runtime without log-probabilities is judged by
   how long its own answers stay equal to the reference's.
4. `garbage.py`: answers that are empty, a loop, or in letters that the reference does not use, and
   what such answers usually come from.
5. `judge.py`: the gate, with the policy of the host, on all of these and on the tasks.
"""
