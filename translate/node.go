package translate

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/mesh"
)

// NodeType is what kind of proxy asks.
type NodeType string

// The node types this version serves.
const (
	Sidecar NodeType = "sidecar"
	Router  NodeType = "router"
)

// Interception is how traffic reaches the proxy.
type Interception string

// Interceptions. NoInterception is env capture.
const (
	Redirect       Interception = "REDIRECT"
	TProxy         Interception = "TPROXY"
	NoInterception Interception = "NONE"
)

// Node is one proxy, as far as its configuration depends on it.
type Node struct {
	Type           NodeType
	Namespace      string
	Name           string // of its workload
	ServiceAccount string // "" if unknown
	Labels         mesh.Labels
	Locality       mesh.Locality // where it says it is; what the registry knows of its workload comes first
	Addresses      []netip.Addr
	Interception   Interception
	// VirtualNet is W of the 127.W.0.0/16 in which env capture gives every service an
	// address of its own; 0 is no env capture.
	VirtualNet uint8
	// Unprivileged says that the proxy cannot listen on ports below 1024, which only env
	// capture asks of it: node.metadata.UNPRIVILEGED_POD.
	Unprivileged bool
	// Outbound is where env capture listens for a service's port, by "host:port", instead
	// of at the address VirtualNet gives.
	Outbound map[string]netip.AddrPort
	// Inbound are the listeners of env capture, in the order given.
	Inbound []Inbound
	// ProxyProtocol says that connections to a gateway's listeners begin with a header of the
	// PROXY protocol: gatewayTopology.proxyProtocol of its ProxyConfig.
	ProxyProtocol bool
	// Topology is what stands in front of a gateway, if its ProxyConfig says so; nil: as the mesh has it.
	Topology *mesh.Topology
	// Proxyless says that the program itself speaks xDS, as gRPC can: GENERATOR=grpc.
	Proxyless bool
	// VHDS says that the proxy takes virtual hosts as resources of their own.
	VHDS bool
	// OnDemand says that the proxy asks by name for what it uses; Learned is then what it
	// gets unasked beside the standing resources, nil for nothing.
	OnDemand bool
	Learned  *Learned
	// AsksConnections says that the proxy can ask somebody about connections (the network filter ext_authz), as Envoys can, and proxies
	// of ours that say so.
	AsksConnections bool
	// Unproven says that nobody vouches for the rest: such a node gets no secrets.
	Unproven bool
	// DNS says the proxy answers its workload's DNS and wants the name table.
	DNS bool
}

// Learned are names of listeners and virtual hosts that a workload is known to use. It is
// not to be changed, and compared by its address.
type Learned struct{ Listeners, VirtualHosts []string }

// SidecarOf is the node of a workload's sidecar as it would be with captured traffic, asking for everything at once.
func SidecarOf(w *mesh.Workload) *Node {
	return &Node{Type: Sidecar, Namespace: w.Namespace, Name: w.Name, ServiceAccount: w.ServiceAccount, Labels: w.Labels, Locality: w.Locality,
		Addresses: w.Addresses, Interception: Redirect, AsksConnections: true, Unproven: true}
}

// ProxyOf is the node of a workload's proxy: a gateway's if a Gateway selects the workload by its labels, else SidecarOf.
func ProxyOf(snap *mesh.Snapshot, w *mesh.Workload) *Node {
	n := SidecarOf(w)
	for g := range snap.Gateways.Values() {
		if len(g.Selector) > 0 && g.Selector.Selects(w.Labels) {
			n.Type = Router
		}
	}
	return n
}

func (n *Node) form() form {
	switch {
	case n.OnDemand:
		return onDemand
	case n.VHDS:
		return pieces
	}
	return whole
}

// Inbound is where env capture accepts connections for a workload port.
type Inbound struct {
	Bind netip.AddrPort // where callers connect
	Port uint16         // the workload's port
	App  netip.AddrPort // where the application listens
}

// Peer is who the connection proved to be. Empty fields were not proved.
type Peer struct{ Namespace, ServiceAccount string }

// Limits on what a node may say about itself: far above anything a workload has.
const (
	maxNodeLabels   = 512
	maxNodeID       = 1024 // bytes; a pod's name and two namespaces are 400 at most
	maxNodeInbound  = 256
	maxNodeOutbound = 16 << 10
	maxNodeIPs      = 64
)

// ParseNode reads what a proxy says about itself and holds it against what it proved.
// It fails when the two disagree, because configuration (and what it reveals) follows
// from namespace and service account.
func ParseNode(n *corev3.Node, peer Peer) (*Node, error) {
	if len(n.GetId()) > maxNodeID {
		return nil, fmt.Errorf("node.id: %d bytes, at most %d", len(n.GetId()), maxNodeID)
	}
	parts := strings.Split(n.GetId(), "~")
	if len(parts) != 4 {
		return nil, fmt.Errorf("node.id: %q is not of the form type~ip~name.namespace~domain", clip(n.GetId()))
	}
	out := &Node{Type: NodeType(parts[0])}
	if out.Type != Sidecar && out.Type != Router {
		return nil, fmt.Errorf("node.id: node type %q is not served; sidecar and router are", clip(parts[0]))
	}
	dot := strings.LastIndexByte(parts[2], '.')
	if dot <= 0 || dot == len(parts[2])-1 {
		return nil, fmt.Errorf("node.id: %q is not of the form name.namespace", clip(parts[2]))
	}
	out.Name, out.Namespace = parts[2][:dot], parts[2][dot+1:]

	m := n.GetMetadata().GetFields()
	if ns := m["NAMESPACE"].GetStringValue(); ns != "" && ns != out.Namespace {
		return nil, fmt.Errorf("node.metadata.NAMESPACE: %q contradicts namespace %q of node.id", clip(ns), clip(out.Namespace))
	}
	if peer.Namespace != "" && peer.Namespace != out.Namespace {
		return nil, fmt.Errorf("node.id: namespace %q, but the certificate is for namespace %q", clip(out.Namespace), peer.Namespace)
	}
	out.ServiceAccount = m["SERVICE_ACCOUNT"].GetStringValue()
	if peer.ServiceAccount != "" {
		if out.ServiceAccount != "" && out.ServiceAccount != peer.ServiceAccount {
			return nil, fmt.Errorf("node.metadata.SERVICE_ACCOUNT: %q, but the certificate is for %q", clip(out.ServiceAccount), peer.ServiceAccount)
		}
		out.ServiceAccount = peer.ServiceAccount
	}
	labels := m["LABELS"].GetStructValue().GetFields()
	if len(labels) > maxNodeLabels {
		return nil, fmt.Errorf("node.metadata.LABELS: %d labels, at most %d", len(labels), maxNodeLabels)
	}
	out.Labels = mesh.Labels{}
	for k, v := range labels {
		out.Labels[k] = v.GetStringValue()
	}
	l := n.GetLocality()
	out.Locality = mesh.Locality{Region: l.GetRegion(), Zone: l.GetZone(), SubZone: l.GetSubZone()}
	if s := out.Labels[labelLocality]; out.Locality == (mesh.Locality{}) && s != "" { // dots, as labels have no slashes
		parts := append(strings.SplitN(s, ".", 3), "", "")
		out.Locality = mesh.Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}
	}
	var err error
	if out.Addresses, err = nodeAddresses(parts[1], m["INSTANCE_IPS"].GetStringValue()); err != nil {
		return nil, err
	}
	if out.Interception, err = interception(m["INTERCEPTION_MODE"].GetStringValue()); err != nil {
		return nil, err
	}
	if t := m["PROXY_CONFIG"].GetStructValue().GetFields()["gatewayTopology"].GetStructValue(); t != nil && out.Type == Router {
		_, out.ProxyProtocol = t.GetFields()["proxyProtocol"]
		if out.Topology, err = topology(t.GetFields()); err != nil {
			return nil, err
		}
	}
	out.Proxyless = out.Type == Sidecar && m["GENERATOR"].GetStringValue() == "grpc"
	out.Unprivileged = m["UNPRIVILEGED_POD"].GetStringValue() == "true"
	switch v := m["DNS_CAPTURE"].GetKind().(type) {
	case *structpb.Value_BoolValue:
		out.DNS = v.BoolValue
	case *structpb.Value_StringValue:
		out.DNS = v.StringValue == "true"
	}
	out.AsksConnections = n.GetUserAgentName() != "weir-proxy"
	if err := out.readWeir(m["WEIR"].GetStructValue().GetFields()); err != nil {
		return nil, err
	}
	// Listeners that are bound before anybody asks, and gateways, are not to be asked for.
	out.OnDemand = out.OnDemand && out.VHDS && out.Type == Sidecar && !out.Proxyless && out.Interception != NoInterception
	return out, nil
}

func nodeAddresses(first, list string) ([]netip.Addr, error) {
	var out []netip.Addr
	all := strings.Split(list, ",")
	if list == "" {
		all = []string{first}
	}
	if len(all) > maxNodeIPs {
		return nil, fmt.Errorf("node.metadata.INSTANCE_IPS: %d addresses, at most %d", len(all), maxNodeIPs)
	}
	for _, s := range all {
		a, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("node address: %q is not an IP address", clip(s))
		}
		out = append(out, a)
	}
	return out, nil
}

// topology reads a gatewayTopology. Of one that says nothing of a field the value is the default: injection has joined it with the mesh's.
func topology(t map[string]*structpb.Value) (*mesh.Topology, error) {
	const path = "node.metadata.PROXY_CONFIG.gatewayTopology"
	out := &mesh.Topology{}
	if v, ok := t["numTrustedProxies"]; ok {
		n := v.GetNumberValue()
		if _, number := v.GetKind().(*structpb.Value_NumberValue); !number || n < 0 || n > mesh.MaxTrustedProxies || n != math.Trunc(n) {
			return nil, fmt.Errorf("%s.numTrustedProxies: %s is not a number from 0 to %d", path, clip(fmt.Sprint(v.AsInterface())), mesh.MaxTrustedProxies)
		}
		out.TrustedProxies = uint32(n)
	}
	if v, ok := t["forwardClientCertDetails"]; ok {
		name := v.GetStringValue()
		if _, known := hcmv3.HttpConnectionManager_ForwardClientCertDetails_value[name]; !known && name != "UNDEFINED" {
			return nil, fmt.Errorf("%s.forwardClientCertDetails: %s is none of SANITIZE, FORWARD_ONLY, APPEND_FORWARD, SANITIZE_SET, ALWAYS_FORWARD_ONLY, UNDEFINED", path, clip(fmt.Sprint(v.AsInterface())))
		}
		if name != "UNDEFINED" {
			out.ClientCert = name
		}
	}
	return out, nil
}

func interception(s string) (Interception, error) {
	switch i := Interception(s); i {
	case "":
		return Redirect, nil // as Istio's default
	case Redirect, TProxy, NoInterception:
		return i, nil
	}
	return "", fmt.Errorf("node.metadata.INTERCEPTION_MODE: %q is none of REDIRECT, TPROXY, NONE", clip(s))
}

// readWeir reads node.metadata.WEIR, what only our proxy says.
func (n *Node) readWeir(m map[string]*structpb.Value) error {
	if s := m["VIRTUAL_NET"].GetStringValue(); s != "" {
		w, ok := strings.CutPrefix(s, "127.")
		v, err := strconv.ParseUint(w, 10, 8)
		if !ok || err != nil || v == 0 {
			return fmt.Errorf("node.metadata.WEIR.VIRTUAL_NET: %q is not of the form 127.W with W 1 to 255", clip(s))
		}
		n.VirtualNet, n.Interception = uint8(v), NoInterception
	}
	n.VHDS = m["VHDS"].GetBoolValue()
	n.OnDemand = m["ONDEMAND"].GetBoolValue()
	n.AsksConnections = n.AsksConnections || m["NETWORK_EXT_AUTHZ"].GetBoolValue()
	calls := m["OUTBOUND"].GetListValue().GetValues()
	if len(calls) > maxNodeOutbound {
		return fmt.Errorf("node.metadata.WEIR.OUTBOUND: %d entries, at most %d", len(calls), maxNodeOutbound)
	}
	for i, v := range calls {
		f := v.GetStructValue().GetFields()
		at := fmt.Sprintf("node.metadata.WEIR.OUTBOUND[%d]", i)
		bind, err := netip.ParseAddrPort(f["bind"].GetStringValue())
		if err != nil || !bind.Addr().IsLoopback() || bind.Port() == 0 {
			return fmt.Errorf("%s.bind: %q is not address:port of this machine", at, clip(f["bind"].GetStringValue()))
		}
		service := f["service"].GetStringValue()
		if _, _, ok := strings.Cut(service, ":"); !ok {
			return fmt.Errorf("%s.service: %q is not host:port", at, clip(service))
		}
		if n.Outbound == nil {
			n.Outbound = map[string]netip.AddrPort{}
		}
		n.Outbound[service] = bind
	}
	list := m["INBOUND"].GetListValue().GetValues()
	if len(list) > maxNodeInbound {
		return fmt.Errorf("node.metadata.WEIR.INBOUND: %d entries, at most %d", len(list), maxNodeInbound)
	}
	seen := map[netip.AddrPort]bool{}
	for i, v := range list {
		f := v.GetStructValue().GetFields()
		at := fmt.Sprintf("node.metadata.WEIR.INBOUND[%d]", i)
		bind, err := netip.ParseAddrPort(f["bind"].GetStringValue())
		if err != nil {
			return fmt.Errorf("%s.bind: %q is not address:port", at, clip(f["bind"].GetStringValue()))
		}
		if seen[bind] {
			return fmt.Errorf("%s.bind: %s is there twice", at, bind)
		}
		seen[bind] = true
		app, err := netip.ParseAddrPort(f["app"].GetStringValue())
		if err != nil {
			return fmt.Errorf("%s.app: %q is not address:port", at, clip(f["app"].GetStringValue()))
		}
		port := f["port"].GetNumberValue()
		if !(port >= 1 && port <= 65535) || port != math.Trunc(port) {
			return fmt.Errorf("%s.port: %v is not a port number", at, port)
		}
		n.Inbound = append(n.Inbound, Inbound{Bind: bind, Port: uint16(port), App: app})
	}
	return nil
}

// clip keeps a peer's text in an error short.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
