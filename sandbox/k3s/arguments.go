package main

import (
	"sort"
	"strings"
)

// arguments turns defaults and the user's `name=value` settings into flags. A user's value
// replaces the default of the same name; `name-` removes a default, as in k3s.
func arguments(defaults map[string]string, extra []string) []string {
	values := map[string][]string{}
	for name, value := range defaults {
		values[name] = []string{value}
	}
	replaced := map[string]bool{}
	for _, setting := range extra {
		name, value, given := strings.Cut(strings.TrimLeft(setting, "-"), "=")
		if !given && strings.HasSuffix(name, "-") {
			delete(values, strings.TrimSuffix(name, "-"))
			continue
		}
		if !given {
			value = "true"
		}
		if !replaced[name] {
			values[name], replaced[name] = nil, true
		}
		values[name] = append(values[name], value)
	}
	var flags []string
	for name, all := range values {
		for _, value := range all {
			flags = append(flags, "--"+name+"="+value)
		}
	}
	// By name only, and stable: repeated values keep the order they were given in.
	sort.SliceStable(flags, func(a, b int) bool {
		return flagName(flags[a]) < flagName(flags[b])
	})
	return flags
}

func flagName(flag string) string {
	name, _, _ := strings.Cut(flag, "=")
	return name
}
