"""The MONAI Label server app of doselabel: `monailabel start_server --app monailabel_app --studies DIR`.

It translates requests into one call of `doselabel` and the answer back. It knows no network and no dose formula.
"""
