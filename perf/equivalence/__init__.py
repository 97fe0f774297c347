"""Check that two checkouts of edgewright give the same results.

    python perf/equivalence capture ROOT OUT.json [--only NAME,...] [--work DIR] [--fresh]
    python perf/equivalence record OUT.json [--only NAME,...] [--work DIR]
    python perf/equivalence compare BEFORE.json AFTER.json [--only NAME,...] [--words]

`capture` runs a matrix of command lines with the checkout at ROOT: every verb, format, precision,
method, criterion and family, and many refused inputs. Per job it records the exit code, the files,
the sha256 of every file and tensor, the JSON document, and the text. A job that OUT.json already
holds is not run again; `--fresh` runs it again, which a changed checkout needs. NAME is a job or a
pattern such as `export-*`; the jobs that it reads from run first. The demo takes minutes and runs
only with `--only demo`. The work folder (OUT.json.work, or `--work`) needs a gigabyte.

`record` reads the files of the work folder again and runs nothing. It brings a capture of an
older version of this script up to date.

`compare` prints one row per job and classifies every difference:

    bytes   weights, graphs, tensors, data files, configs, tokenizer files
    values  exit codes, JSON keys and numbers, file names, option names, defaults, metavars
    words   sentences: notes, messages, help texts, descriptions, text of reports and model cards
    new     a key, an option or a job that only AFTER has
    declared  a change that `declared.py` lists with its reason

It ends with exit code 1 if there is a difference in bytes or values. `--words` shows the changed
sentences; one with other numbers or options in it is marked with `(!)`.

Everything computes on one thread, because sums depend on the number of threads.

Not compared, because it differs between two runs of the same code: measured seconds, rates and
memory, and predictions that follow from a measured speed; dates; free disk space; databases of
sweeps. Not compared, because it changes with the code: fingerprints, hashes of folders that hold
a fingerprint (their files are compared), and the content of Python files in artifacts (in a bundle
not even their names, nor the name and size of the bundle). Numbers in reports are not compared;
the ledgers hold them. Of jobs that time a model, only the exit code and the JSON keys are compared.
Not run at all: `serve` (waits for requests) and `deploy` over SSH.
"""
