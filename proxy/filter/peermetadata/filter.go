// Package peermetadata exchanges workload labels by HTTP header, as Istio's
// proxies do (filter envoy.filters.http.peer_metadata), so that both sides of a
// request can name the other in their metrics. A server that could not reach its
// application says so to its peer, which then may ask another one
// (x-weir-undelivered, see http.Exchange.Undelivered).
//
// What enters: requests and responses with x-envoy-peer-metadata and -id. What
// leaves: the same without them, Exchange.Peer, and our own metadata where the
// other side is of the mesh. The metadata is telemetry: it is believed and never
// used to decide. A Node is immutable and shared by all workers.
package peermetadata

import (
	"fmt"
	"hash/maphash"

	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/observe"
)

// Node is what this proxy tells others, and whom it has heard of.
type Node struct {
	id, metadata []byte
	peers        *observe.Peers
	seed         maphash.Seed
}

// New makes the Node of a proxy. peers is shared by all that exchange metadata.
func New(n *observe.Node, peers *observe.Peers) (*Node, error) {
	h, err := n.Header()
	if err != nil {
		return nil, fmt.Errorf("making the peer metadata header: %w", err)
	}
	return &Node{id: []byte(n.ID), metadata: []byte(h), peers: peers, seed: maphash.MakeSeed()}, nil
}

// Client is the stage of outbound and gateway listeners: tell the server who calls, and learn who answers. It stands
// behind the choice of the cluster, because strangers are told nothing.
func (n *Node) Client() http.Stage {
	return http.Stage{Name: "peer metadata", Request: func(x *http.Exchange) http.Verdict {
		h := &x.Request.Headers
		if x.Cluster != nil && x.Cluster.InMesh() {
			h.Set(message.XEnvoyPeerMetadataID, n.id)
			h.Set(message.XEnvoyPeerMetadata, n.metadata)
		} else {
			h.Remove(message.XEnvoyPeerMetadataID)
			h.Remove(message.XEnvoyPeerMetadata)
		}
		return http.Continue
	}, Response: func(x *http.Exchange) {
		h := &x.Response.Headers
		if m := x.UpstreamMemory(); m != nil && x.Cluster != nil && x.Cluster.InMesh() {
			x.Peer = n.take(h, m)
			return
		}
		h.Remove(message.XEnvoyPeerMetadata) // who is not of the mesh has no name in it
		h.Remove(message.XEnvoyPeerMetadataID)
	}}
}

// Server is the stage of inbound listeners: learn who calls, and answer in kind.
func (n *Node) Server() http.Stage {
	return http.Stage{Name: "peer metadata", Request: func(x *http.Exchange) http.Verdict {
		x.Peer = n.take(&x.Request.Headers, x.DownstreamMemory())
		return http.Continue
	}, Response: func(x *http.Exchange) {
		h := &x.Response.Headers
		if x.Peer == nil {
			h.Remove(message.XEnvoyPeerMetadataID)
			h.Remove(message.XEnvoyPeerMetadata)
			return
		}
		h.Set(message.XEnvoyPeerMetadataID, n.id)
		h.Set(message.XEnvoyPeerMetadata, n.metadata)
		if x.Undelivered() {
			h.Set(message.XWeirUndelivered, yes)
		}
	}}
}

var yes = []byte("1")

// take removes the two headers and returns the peer they describe, nil if they are missing or unsound. A connection
// nearly always says the same thing again, so what it said last is remembered by its hash.
func (n *Node) take(h *message.Headers, m *http.Memory) *observe.Peer {
	metadata := h.Get(message.XEnvoyPeerMetadata)
	if metadata == nil {
		h.Remove(message.XEnvoyPeerMetadataID)
		return nil
	}
	sum := maphash.Bytes(n.seed, metadata)
	if m.Peer == nil || m.Hash != sum {
		m.Peer, m.Hash = n.peers.FromHeader(metadata), sum
	}
	h.Remove(message.XEnvoyPeerMetadata)
	h.Remove(message.XEnvoyPeerMetadataID)
	return m.Peer
}
