"""Jobs of many files that can be killed at any moment and go on where they were.

`items` says what is to be done, `settings` how, `work` does it, `journal` remembers what is done;
`job` puts them together. See docs/jobs.md.
"""
