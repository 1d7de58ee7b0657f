#!/bin/bash
# oarsub --array 8 -S ./oar.sh: eight workers.
#OAR -n epsweep
#OAR -l host=1/gpu=1,walltime=24:00:00
#OAR -t idempotent
#OAR --checkpoint 120
#OAR --signal 15
export EPSWEEP_ROOT="${EPSWEEP_ROOT:-$HOME/sweeps/outputs}"
exec sweep work "${GRID:-my_question.yaml}" --idle 300
