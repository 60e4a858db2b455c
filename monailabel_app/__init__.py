"""The MONAI Label server app of doselabel: `monailabel start_server --app monailabel_app --studies DIR`."""
