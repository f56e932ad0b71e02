"""The backends: each renders a plan into files and a command. One folder and one `conf/backend/<name>.yaml` each."""
