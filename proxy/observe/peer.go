package observe

import (
	"encoding/base64"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// Peer is what is known of a workload, ours or the other side's: the source of Istio's
// workload labels. It is immutable and interned, so that a pointer can be a map key.
type Peer struct {
	Workload, Namespace   string
	App, Version          string
	CanonicalService      string
	CanonicalRevision     string
	Cluster               string
	ID                    string // node id, as in x-envoy-peer-metadata-id
	Owner, ServiceAccount string
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
		CanonicalService: CanonicalService(n.Labels, n.Workload), CanonicalRevision: CanonicalRevision(n.Labels),
		Cluster: n.Cluster, ID: n.ID, Owner: n.Owner, ServiceAccount: n.ServiceAccount}
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

// PeerOf reads a peer's metadata Struct and node id.
func PeerOf(id string, s *structpb.Struct) *Peer {
	f := s.GetFields()
	labels := map[string]string{}
	for k, v := range f["LABELS"].GetStructValue().GetFields() {
		labels[k] = v.GetStringValue()
	}
	n := Node{ID: id, Namespace: f["NAMESPACE"].GetStringValue(), Workload: f["WORKLOAD_NAME"].GetStringValue(),
		Owner: f["OWNER"].GetStringValue(), Cluster: f["CLUSTER_ID"].GetStringValue(), ServiceAccount: f["SERVICE_ACCOUNT"].GetStringValue(), Labels: labels}
	return n.Peer()
}

const (
	// maxPeerMetadata bounds one peer's metadata: Istio's is 0.3 to 2 KiB.
	maxPeerMetadata = 16 << 10
	// maxPeers bounds how many distinct peers are remembered; a mesh that talks to more
	// at once decodes again.
	maxPeers = 4096
)

// Peers interns decoded peer metadata, by its encoded form. Workers share it; a hit
// costs a read lock and one map look-up, and connections remember their peer, so it is
// asked once a connection and not once a request.
type Peers struct {
	mu      sync.RWMutex
	byBytes map[string]*Peer
}

// NewPeers makes an empty set.
func NewPeers() *Peers { return &Peers{byBytes: map[string]*Peer{}} }

// FromHeader decodes the two headers of the HTTP exchange. nil if they are not sound:
// telemetry fails open, labels become "unknown".
func (p *Peers) FromHeader(id, metadata []byte) *Peer {
	if len(metadata) == 0 || len(metadata) > maxPeerMetadata || len(id) > maxPeerMetadata {
		return nil
	}
	p.mu.RLock()
	peer, ok := p.byBytes[string(metadata)]
	p.mu.RUnlock()
	if ok {
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
	return p.remember(string(metadata), PeerOf(string(id), s))
}

// FromStruct interns the metadata of the TCP exchange.
func (p *Peers) FromStruct(id string, s *structpb.Struct) *Peer {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil || len(raw) > maxPeerMetadata {
		return nil
	}
	p.mu.RLock()
	peer, ok := p.byBytes[string(raw)]
	p.mu.RUnlock()
	if ok {
		return peer
	}
	return p.remember(string(raw), PeerOf(id, s))
}

func (p *Peers) remember(key string, peer *Peer) *Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, ok := p.byBytes[key]; ok {
		return old
	}
	if len(p.byBytes) >= maxPeers {
		clear(p.byBytes) // simplest bound: begin again; the live ones come back with their next connection
	}
	p.byBytes[key] = peer
	return peer
}
