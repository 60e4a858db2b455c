"""Many patients: the same steps as for one, done side by side, each result kept and never computed twice.

`record` keeps what was done, `patient` does one patient's steps, `run` has them done for all, here or by Dask; `rows`,
`agreement` and `page` say what came out.
"""
