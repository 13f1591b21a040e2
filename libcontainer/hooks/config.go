// Package hooks runs OCI hooks: one after the other, each with a deadline, only the
// environment it names, and the container's state on its standard input.
package hooks

// Hook is a program on the host.
type Hook struct {
	Path    string   `json:"path"`
	Args    []string `json:"args,omitempty"`
	Env     []string `json:"env,omitempty"`
	Timeout int      `json:"timeout,omitempty"` // seconds; 0: none was given
}
