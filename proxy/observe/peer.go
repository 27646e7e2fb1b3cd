package observe

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// Peer is what is known of a workload, ours or the other side's: the source of Istio's
// workload labels, and no more, so that all replicas of a workload are one Peer. It is
// immutable and interned, so that a pointer can be a map key.
type Peer struct {
	Workload, Namespace string
	App, Version        string
	CanonicalService    string
	CanonicalRevision   string
	Cluster             string
}

// Node is a proxy's node metadata in Istio's keys, from which its own Peer and what it
// tells others are made.
type Node struct {
	ID             string // "sidecar~10.0.0.1~reviews-v1-0.default~default.svc.cluster.local"
	Name           string // pod name
	Namespace      string
	Workload       string
	Owner          string // "kubernetes://apis/apps/v1/namespaces/default/deployments/reviews-v1"
	Cluster        string
	MeshID         string
	ServiceAccount string
	Labels         map[string]string
}

// Peer is the node as others see it.
func (n *Node) Peer() *Peer {
	return &Peer{Workload: n.Workload, Namespace: n.Namespace, App: n.Labels["app"], Version: n.Labels["version"],
		CanonicalService: CanonicalService(n.Labels, n.Workload), CanonicalRevision: CanonicalRevision(n.Labels), Cluster: n.Cluster}
}

// CanonicalService follows Istio: the canonical-name label, then
// app.kubernetes.io/name, then app, then the workload's name.
func CanonicalService(labels map[string]string, workload string) string {
	for _, k := range []string{"service.istio.io/canonical-name", "app.kubernetes.io/name", "app"} {
		if v := labels[k]; v != "" {
			return v
		}
	}
	return workload
}

// CanonicalRevision follows Istio likewise; without any label it is "latest".
func CanonicalRevision(labels map[string]string) string {
	for _, k := range []string{"service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"} {
		if v := labels[k]; v != "" {
			return v
		}
	}
	return "latest"
}

// Metadata is the Struct that Istio's proxies exchange.
func (n *Node) Metadata() *structpb.Struct {
	labels := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for k, v := range n.Labels {
		labels.Fields[k] = structpb.NewStringValue(v)
	}
	// Without these two the other side could not tell canonical names that we derived.
	labels.Fields["service.istio.io/canonical-name"] = structpb.NewStringValue(CanonicalService(n.Labels, n.Workload))
	labels.Fields["service.istio.io/canonical-revision"] = structpb.NewStringValue(CanonicalRevision(n.Labels))
	fields := map[string]*structpb.Value{"LABELS": structpb.NewStructValue(labels)}
	for k, v := range map[string]string{"NAME": n.Name, "NAMESPACE": n.Namespace, "WORKLOAD_NAME": n.Workload, "OWNER": n.Owner,
		"CLUSTER_ID": n.Cluster, "MESH_ID": n.MeshID, "SERVICE_ACCOUNT": n.ServiceAccount} {
		if v != "" {
			fields[k] = structpb.NewStringValue(v)
		}
	}
	return &structpb.Struct{Fields: fields}
}

// Header is the value of x-envoy-peer-metadata: the Struct, serialised with sorted
// keys and in base64.
func (n *Node) Header() (string, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(n.Metadata())
	if err != nil {
		return "", fmt.Errorf("encoding peer metadata: %w", err)
	}
	return base64.StdEncoding.EncodeToString(b), nil
}

// PeerOf reads a peer's metadata Struct. nil: something in it is longer than names are.
func PeerOf(s *structpb.Struct) *Peer {
	f := s.GetFields()
	labels := map[string]string{}
	for k, v := range f["LABELS"].GetStructValue().GetFields() {
		labels[k] = v.GetStringValue()
	}
	n := Node{Namespace: f["NAMESPACE"].GetStringValue(), Workload: f["WORKLOAD_NAME"].GetStringValue(), Cluster: f["CLUSTER_ID"].GetStringValue(), Labels: labels}
	p := n.Peer()
	for _, name := range [...]string{p.Workload, p.Namespace, p.App, p.Version, p.CanonicalService, p.CanonicalRevision, p.Cluster} {
		if len(name) > maxName {
			return nil
		}
	}
	return p
}

const (
	// maxPeerMetadata bounds one peer's metadata: Istio's is 0.3 to 2 KiB.
	maxPeerMetadata = 16 << 10
	// maxName is the longest name of a Kubernetes object (a DNS name, RFC 1123); values of labels have 63 bytes at most.
	maxName = 253
	// maxPeers bounds the workloads that are remembered, 8 MB of them at worst, and how many new ones there may be
	// in forgetAfter: every one makes series of metrics, which stay. Who could say who it is as often as it likes
	// would make us hold, and be asked for, hundreds of megabytes. Workloads beyond are unknown.
	maxPeers    = 4096
	forgetAfter = time.Hour
	// maxForms bounds the encoded forms that are remembered, one for each replica. A mesh that talks to more at once
	// decodes again.
	maxForms = 4096
)

// Peers interns decoded peer metadata, by its encoded form and by what it says. Workers
// share it; a hit costs a read lock and one map look-up, and connections remember their
// peer, so it is asked once a connection and not once a request.
type Peers struct {
	mu    sync.RWMutex
	forms map[[sha256.Size]byte]*Peer
	peers map[Peer]*Peer
	since time.Time // when peers was empty
}

// NewPeers makes an empty set.
func NewPeers() *Peers { return &Peers{forms: map[[sha256.Size]byte]*Peer{}, peers: map[Peer]*Peer{}} }

// FromHeader decodes x-envoy-peer-metadata. nil if it is not sound: telemetry fails open,
// labels become "unknown".
func (p *Peers) FromHeader(metadata []byte) *Peer {
	if len(metadata) == 0 || len(metadata) > maxPeerMetadata {
		return nil
	}
	form := sha256.Sum256(metadata)
	if peer := p.recall(form); peer != nil {
		return peer
	}
	raw, err := base64.StdEncoding.DecodeString(string(metadata))
	if err != nil {
		return nil
	}
	s := &structpb.Struct{}
	if proto.Unmarshal(raw, s) != nil {
		return nil
	}
	return p.remember(form, PeerOf(s), time.Now())
}

// FromStruct interns the metadata of the TCP exchange.
func (p *Peers) FromStruct(s *structpb.Struct) *Peer {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil || len(raw) > maxPeerMetadata {
		return nil
	}
	form := sha256.Sum256(raw)
	if peer := p.recall(form); peer != nil {
		return peer
	}
	return p.remember(form, PeerOf(s), time.Now())
}

func (p *Peers) recall(form [sha256.Size]byte) *Peer {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.forms[form]
}

// remember is the one Peer that says what peer says; nil: there are too many.
func (p *Peers) remember(form [sha256.Size]byte, peer *Peer, now time.Time) *Peer {
	if peer == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.peers[*peer]
	if known == nil {
		if len(p.peers) >= maxPeers {
			if now.Sub(p.since) < forgetAfter {
				return nil
			}
			clear(p.peers)
			clear(p.forms)
		}
		if len(p.peers) == 0 {
			p.since = now
		}
		known = peer
		p.peers[*peer] = peer
	}
	if len(p.forms) >= maxForms {
		clear(p.forms) // simplest bound: begin again; the live ones come back with their next connection
	}
	p.forms[form] = known
	return known
}
