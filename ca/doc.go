// Package ca makes certificates.
//
// An [Authority] is a signing key with its certificate chain and the bundle of
// roots that its certificates lead to: a root of its own, kept in a folder
// (FollowSelfSigned), or an organisation's, plugged in as files (FollowPlugged,
// ParsePlugged). It
// signs what it is told to: who may have which identity is decided by
// ca/server, which asks for credentials.
//
// Roots follow each other by two pure machines: [Succession] for those that a mesh makes for
// itself, and the handover of [Rolling] for whatever an operator puts in another's place. A
// [Rehearsal] runs them ahead.
//
// In: certificate requests and the identity to certify. Out: chains, leaf first
// and roots last. An Authority is immutable and safe for concurrent use; a [Source] says
// which is in force, [Serving] keeps the control plane's own certificate. Only the
// control plane imports it.
package ca
