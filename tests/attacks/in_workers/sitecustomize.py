"""Installs the fault of $PHIV_FAULT in the worker processes of a command, or in the command itself ($PHIV_FAULT_IN)."""

import atexit
import json
import os

if text := os.environ.get("PHIV_FAULT"):
    is_command = "PHIV_FAULT_STARTED" not in os.environ
    os.environ["PHIV_FAULT_STARTED"] = "1"
    if is_command == (os.environ["PHIV_FAULT_IN"] == "command"):
        from attacks.injection import Fault, install

        injector = install(Fault(**json.loads(text)))
        if injector.fault.log:
            injector.fault = Fault(**(json.loads(text) | {"log": f"{injector.fault.log}.{os.getpid()}"}))
            atexit.register(injector.report)
