// Package nft writes a capture.Ruleset into a network namespace by netlink, without
// the nft, iptables or ip programs.
//
// Apply and Remove act on the network namespace of the calling thread (a goroutine in
// another namespace is one locked to its thread) and need CAP_NET_ADMIN there. They
// touch the table inet weir and what the ruleset lists beside it, nothing else. Calls
// for the same namespace must not overlap; for different ones they may.
package nft
