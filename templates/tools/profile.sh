# Read by login shells. k3s's own kubectl finds this file by itself; helm and the plugins do not.
if [ -z "${KUBECONFIG:-}" ] && [ ! -e "${HOME:-/root}/.kube/config" ] && [ -r /etc/rancher/k3s/k3s.yaml ]; then
  export KUBECONFIG=/etc/rancher/k3s/k3s.yaml
fi
{% if tools.krew -%}
# Plugins that krew installs.
export PATH="$PATH:${KREW_ROOT:-${HOME:-/root}/.krew}/bin"
{% endif -%}
