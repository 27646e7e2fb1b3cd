// Package ondemand is what both planes must agree on to the byte for configuration on
// demand (docs/design/ondemand.md): names, their hashes, and the index made of these.
//
// Names enter, hashes and shards leave; the control plane encodes shards, the proxy keeps
// them in an Index. Everything here is pure, and an Index is immutable, so any number of
// goroutines may read it.
package ondemand
