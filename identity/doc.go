// Package identity answers "who am I" and "who are you" for both planes.
//
// A workload is an [ID] (a SPIFFE ID). What proves it is [Material]: a private
// key, a certificate chain, and the [Bundle] of roots by which its peers are
// judged. A [Manager] obtains Material from a [Signer], renews it at half life
// and never gives up a usable certificate; [VerifyPeer] judges what a peer
// presents and says in a sentence why it was refused.
//
// In: a signer (identity/istioca over gRPC, or a certificate authority in the
// same process), bytes that peers present. Out: Material through an atomic
// pointer with a change signal, TLS configurations for connections between
// proxy and control plane. The proxy's workload connections take Material and
// VerifyPeer directly.
//
// Everything here is immutable or safe for concurrent use. The package knows no
// certificate authority, no proxy and no mesh model; any room may import it.
package identity
