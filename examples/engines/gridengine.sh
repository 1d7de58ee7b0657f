#!/bin/bash
# qsub -t 1-8 gridengine.sh: eight workers. -notify: SIGUSR2, a minute before a job is ended.
#$ -N epsweep
#$ -S /bin/bash
#$ -cwd
#$ -V
#$ -notify
#$ -l h_rt=24:00:00
#$ -r y
export PATH="${SGE_O_PATH:-$PATH}" # -V leaves that of the submission out
export EPSWEEP_ROOT="${EPSWEEP_ROOT:-$HOME/sweeps/outputs}"
exec sweep work "${GRID:-my_question.yaml}" --idle 300
