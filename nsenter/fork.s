// Empty on purpose: a package with an assembly file may declare functions without
// a body, and fork.go declares the three hooks that the runtime keeps for fork.
