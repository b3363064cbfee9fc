# Read when {{ item }} is completed for the first time: always that of the installed version.
source <({{ item }} completion bash)
