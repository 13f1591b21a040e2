package libcontainer

import "thinrun/nsenter"

// Become executes a program that our binary carries, in our place: with our arguments,
// environment and descriptors. It returns only when that fails.
func Become(program string) error { return nsenter.ExecCarried(program) }
