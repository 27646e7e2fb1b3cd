// Package ca makes certificates.
//
// An [Authority] is a signing key with its certificate chain and the bundle of
// roots that its certificates lead to: a root of its own, kept in a folder
// (OpenSelfSigned), or an organisation's, plugged in as files (OpenPlugged). It
// signs what it is told to: who may have which identity is decided by
// ca/server, which asks for credentials.
//
// In: certificate requests and the identity to certify. Out: chains, leaf first
// and roots last. An Authority is immutable and safe for concurrent use. Only the
// control plane imports it.
package ca
