// Package plainxds runs Weir's proxy under a control plane that is not Weir's: go-control-plane's server with its snapshot
// cache, as many programs for Envoy use it.
//
// What enters is testdata/*.yaml, resources as a person writes them for Envoy; ${NAME} are addresses, ports and keys of
// the test. Each test runs in state of the world and in delta.
package plainxds
