//go:build linux

package acceptance_test

// roles are what this test's program is when a mesh runs it as a workload.
var roles = map[string]func() error{}
