package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/locked"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/sample"
	"github.com/weirmesh/weir/test/link"
	"github.com/weirmesh/weir/xds/client"
)

const trustDomain = "cluster.local"

// Spec describes a workload. Name and Labels are needed.
type Spec struct {
	Name, Namespace string // the namespace is "default" unless given
	Labels          map[string]string
	ServiceAccount  string // "default" unless given
	Owner           string // the Deployment; "" is a bare pod
	Ports           []Port
	// Program is a command line of package sample, without the binary's name; nil runs
	// nothing, and the test may listen at App itself.
	Program []string
	// Env are further variables of the program.
	Env map[string]string
	// Captured is a workload of whose connections the proxy takes hold by their destination, as
	// with REDIRECT (env capture otherwise), and which takes configuration on demand. It calls
	// others, and nobody calls it: see DialAt.
	Captured bool
	// NoProxy is a workload outside the mesh: callers reach its program directly.
	NoProxy bool
	// Gateway is the ingress gateway: a router, not a sidecar.
	Gateway bool
	// Proxy may alter the options of the proxy each time it starts, Pod the Pod.
	Proxy func(*proxy.Options)
	Pod   func(*corev1.Pod)
	// Binary is a weir-proxy to run as the proxy, a sidecar: a process of its own, which
	// Command may alter before it starts. "": the proxy runs in this process.
	Binary  string
	Command func(*exec.Cmd)
	// Tap puts a wire between callers and the proxy that keeps what passes: see Wire.
	Tap bool
}

// Port is a container port.
type Port struct {
	Name   string
	Number uint16
}

// Workload is one pod: a proxy and a program.
type Workload struct {
	Spec
	mesh  *Mesh
	net   uint8
	lock  net.Listener // holds net against other meshes
	admin string       // path of the proxy's socket
	taps  map[uint16]*Wire
	http  transport
	log   locked.Buffer // access log
	link  *link.Link

	capture *capture // of a captured one

	mu    sync.Mutex
	proxy *running
	app   *running
	ready bool
	drain bool
}

// running is something that runs until it is stopped.
type running struct {
	cancel context.CancelFunc
	done   chan struct{} // closed after err is set
	err    error
	ready  func() error // of a proxy
	leave  func()       // nil: another process
}

func start(f func(context.Context) error) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = f(ctx)
	}()
	return r
}

func (r *running) stop() error {
	r.cancel()
	<-r.done
	return r.err
}

// ended is why it runs no more; nil if it does.
func (r *running) ended() error {
	select {
	case <-r.done:
		return fmt.Errorf("it ended: %w", cmp.Or(r.err, errors.New("without an error")))
	default:
		return nil
	}
}

// Workloads starts workloads and waits until all are ready and known everywhere.
func (m *Mesh) Workloads(specs ...Spec) []*Workload {
	m.T.Helper()
	var out []*Workload
	for _, s := range specs {
		out = append(out, m.place(s))
	}
	for _, w := range out {
		w.StartApp()
		if !w.NoProxy {
			w.launch()
		}
	}
	for _, w := range out {
		w.AwaitReady()
		w.ready = true
		w.WritePod()
	}
	for _, w := range out {
		w.awaitKnown("healthy")
	}
	return out
}

// Workload starts one workload.
func (m *Mesh) Workload(s Spec) *Workload {
	m.T.Helper()
	return m.Workloads(s)[0]
}

// Launch starts a workload and waits for nothing but its program.
func (m *Mesh) Launch(s Spec) *Workload {
	m.T.Helper()
	w := m.place(s)
	w.StartApp()
	w.launch()
	return w
}

// place makes room for a workload: addresses, folders, the Pod.
func (m *Mesh) place(s Spec) *Workload {
	m.T.Helper()
	s.Namespace = cmp.Or(s.Namespace, "default")
	s.ServiceAccount = cmp.Or(s.ServiceAccount, "default")
	w := &Workload{Spec: s, mesh: m, taps: map[uint16]*Wire{}, link: link.New()}
	if s.Captured {
		w.capture = &capture{w: w, to: map[netip.Addr]netip.AddrPort{}, at: map[netip.AddrPort]netip.Addr{}}
	}
	var err error
	if w.net, w.lock, err = takeNet(); err != nil {
		m.T.Fatal(err)
	}
	w.admin = m.path("proxies", s.Namespace+"_"+s.Name+".sock")
	m.mu.Lock()
	m.workloads = append(m.workloads, w)
	m.mu.Unlock()
	if s.Tap {
		for _, p := range s.Ports {
			wire, err := newWire(netip.AddrPortFrom(w.IP(), p.Number), w.inbound(p.Number))
			if err != nil {
				m.T.Fatal(err)
			}
			w.taps[p.Number] = wire
		}
	}
	w.WritePod()
	return w
}

// takeNet reserves a network 127.W.0.0/16 that nobody on this machine has: whoever
// listens on its last address owns it. `weir up` begins at the other end.
func takeNet() (uint8, net.Listener, error) {
	var last error
	for n := 254; n > 0; n-- {
		l, err := net.Listen("tcp", fmt.Sprintf("127.%d.255.254:19099", n))
		if err == nil {
			return uint8(n), l, nil
		}
		last = err
	}
	return 0, nil, fmt.Errorf("no network 127.W.0.0/16 is free: %w", last)
}

func (w *Workload) addr(hi, lo byte) netip.Addr { return netip.AddrFrom4([4]byte{127, w.net, hi, lo}) }

// IP is where callers reach the workload.
func (w *Workload) IP() netip.Addr { return w.addr(0, 1) }

// App is where the program listens on a port.
func (w *Workload) App(port uint16) netip.AddrPort {
	if w.NoProxy {
		return netip.AddrPortFrom(w.IP(), port)
	}
	return netip.AddrPortFrom(w.addr(0, 2), port)
}

// inbound is where the proxy listens for a port.
func (w *Workload) inbound(port uint16) netip.AddrPort {
	if w.Tap {
		return netip.AddrPortFrom(w.addr(0, 3), port)
	}
	return netip.AddrPortFrom(w.IP(), port)
}

// Link is the network between the proxy and the control plane: configuration goes over it,
// requests do not.
func (w *Workload) Link() *link.Link { return w.link }

// ID is the workload's SPIFFE identity.
func (w *Workload) ID() string {
	return "spiffe://" + trustDomain + "/ns/" + w.Namespace + "/sa/" + w.ServiceAccount
}

func (w *Workload) key() string { return w.Namespace + "/" + w.Name }

// WritePod tells the control plane what runs.
func (w *Workload) WritePod() {
	w.mesh.T.Helper()
	p := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: w.Name, Labels: w.Labels, Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{ServiceAccountName: w.ServiceAccount},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: w.IP().String()}}},
	}
	if !w.NoProxy {
		p.Annotations["sidecar.istio.io/status"] = "{}"
		p.Annotations["weir.dev/admin"] = "unix://" + w.admin
	}
	if w.Gateway {
		p.Annotations["inject.istio.io/templates"] = "gateway"
	}
	if w.Owner != "" {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: w.Owner, Controller: &yes}}
	}
	c := corev1.Container{Name: "app"}
	for _, port := range w.Ports {
		c.Ports = append(c.Ports, corev1.ContainerPort{Name: port.Name, ContainerPort: int32(port.Number)})
	}
	p.Spec.Containers = []corev1.Container{c}
	status := corev1.ConditionFalse
	if w.ready {
		status = corev1.ConditionTrue
	}
	if w.drain {
		p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	if w.Pod != nil {
		w.Pod(p)
	}
	text, err := yaml.Marshal(p)
	if err != nil {
		w.mesh.T.Fatal(err)
	}
	w.mesh.replace(w.podFile(), text, 0)
}

func (w *Workload) podFile() string {
	return w.mesh.path("pods", w.Namespace+"_"+w.Name+".yaml")
}

// SetHealth writes whether the workload takes requests (healthy, unhealthy, draining)
// and waits until every proxy knows.
func (w *Workload) SetHealth(health string) {
	w.mesh.T.Helper()
	w.ready, w.drain = health == "healthy", health == "draining"
	w.WritePod()
	w.awaitKnown(health)
}

// awaitKnown waits until the workload has this health on every proxy.
func (w *Workload) awaitKnown(health string) {
	w.mesh.T.Helper()
	var version uint64
	w.mesh.Eventually(w.key()+" is "+health, func() error {
		s, err := w.mesh.API().Status(context.Background())
		if err != nil {
			return err
		}
		version = s.Mesh
		for _, x := range s.Workloads {
			if x.Namespace == w.Namespace && x.Name == w.Name {
				if x.Health != health {
					return errors.New("it is " + x.Health)
				}
				return nil
			}
		}
		if health == "gone" {
			return nil
		}
		return errors.New("it is not known")
	})
	w.mesh.settle(version)
}

// StartApp starts the program and waits until it listens.
func (w *Workload) StartApp() {
	w.mesh.T.Helper()
	if w.Program == nil {
		return
	}
	env := maps.Clone(w.Env)
	if env == nil {
		env = map[string]string{}
	}
	ports := make([]string, len(w.Ports))
	for i, p := range w.Ports {
		ports[i] = strconv.Itoa(int(p.Number))
	}
	env["BIND_ADDRESS"] = w.addr(0, 2).String()
	if w.NoProxy {
		env["BIND_ADDRESS"] = w.IP().String()
	}
	if len(ports) > 0 && w.Program[0] != "echo" { // whose ports are its flags
		env["PORT"] = strings.Join(ports, ",")
	}
	getenv := func(name string) string {
		if v, ok := env[name]; ok {
			return v
		}
		return w.serviceVariable(name)
	}
	a := start(func(ctx context.Context) error {
		return sample.Run(ctx, sample.Environment{Getenv: getenv, Host: w.Name, Log: w.mesh.log.With("app", w.Name), Output: &locked.Buffer{}}, w.Program)
	})
	w.mu.Lock()
	w.app = a
	w.mu.Unlock()
	for _, p := range w.Ports {
		w.mesh.Eventually(fmt.Sprintf("%s listens on port %d", w.Name, p.Number), func() error {
			if err := a.ended(); err != nil {
				return err
			}
			c, err := net.Dial("tcp", w.App(p.Number).String())
			if err == nil {
				_ = c.Close()
			}
			return err
		})
	}
}

// StopApp ends the program as SIGTERM would.
func (w *Workload) StopApp() {
	w.mu.Lock()
	a := w.app
	w.app = nil
	w.mu.Unlock()
	if a != nil {
		_ = a.stop()
	}
}

// serviceVariable is what Kubernetes would put into the environment, with the addresses
// at which this workload calls services.
func (w *Workload) serviceVariable(name string) string {
	for _, s := range w.mesh.Services() {
		if s.Namespace != w.Namespace {
			continue
		}
		prefix := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_")) + "_SERVICE_"
		switch {
		case name == prefix+"HOST":
			return w.addr(byte(s.Index>>8), byte(s.Index)).String()
		case name == prefix+"PORT" && len(s.Ports) > 0:
			return strconv.Itoa(int(s.Ports[0].Number))
		}
	}
	return ""
}

// StartProxy starts the proxy and waits until it is ready.
func (w *Workload) StartProxy() {
	w.mesh.T.Helper()
	w.launch()
	w.AwaitReady()
}

// AwaitReady waits until the proxy is ready.
func (w *Workload) AwaitReady() {
	w.mesh.T.Helper()
	if w.NoProxy {
		return
	}
	w.mesh.Eventually("the proxy of "+w.Name+" is ready", func() error {
		w.mu.Lock()
		p := w.proxy
		w.mu.Unlock()
		if err := p.ended(); err != nil {
			return err
		}
		return p.ready()
	})
}

// launch starts the proxy.
func (w *Workload) launch() {
	w.mesh.T.Helper()
	begin := w.inside
	if w.Binary != "" {
		begin = w.process
	}
	r, err := begin()
	if err != nil {
		w.mesh.T.Fatal(err)
	}
	w.mu.Lock()
	w.proxy = r
	w.mu.Unlock()
}

// inside starts the proxy in this process.
func (w *Workload) inside() (*running, error) {
	o, err := w.options()
	if err != nil {
		return nil, err
	}
	if w.Proxy != nil {
		w.Proxy(&o)
	}
	p, err := proxy.New(o)
	if err != nil {
		return nil, err
	}
	r := start(p.Run)
	r.ready, r.leave = p.Ready, p.DrainInbound
	return r, nil
}

// Leave has the proxy, one in this process, ask its clients to go elsewhere, as one does whose pod ends.
func (w *Workload) Leave() {
	w.mu.Lock()
	p := w.proxy
	w.mu.Unlock()
	p.leave()
}

// StopProxy ends the proxy as SIGTERM would: it drains.
func (w *Workload) StopProxy() {
	w.mesh.T.Helper()
	w.mu.Lock()
	p := w.proxy
	w.proxy = nil
	w.mu.Unlock()
	if p == nil {
		return
	}
	if err := p.stop(); err != nil {
		w.mesh.T.Errorf("the proxy of %s ended with: %v", w.Name, err)
	}
	w.http.close()
}

// options are what cmd/weir-proxy makes of its flags in env capture.
func (w *Workload) options() (proxy.Options, error) {
	ip, kind := w.IP().String(), "sidecar"
	if w.Gateway {
		kind = "router"
	}
	log := w.mesh.log.With("proxy", w.key())
	n := observe.Node{ID: kind + "~" + ip + "~" + w.Name + "." + w.Namespace + "~" + w.Namespace + ".svc.cluster.local",
		Name: w.Name, Namespace: w.Namespace, Workload: cmp.Or(w.Owner, w.Name), Cluster: "Kubernetes", MeshID: trustDomain,
		ServiceAccount: w.ServiceAccount, Labels: w.Labels}
	if w.Owner != "" {
		n.Owner = "kubernetes://apis/apps/v1/namespaces/" + w.Namespace + "/deployments/" + w.Owner
	}
	o := proxy.Options{Version: "test", Node: n, Census: &census, StateDir: w.mesh.path("proxies", w.Namespace+"_"+w.Name),
		AccessLog: &w.log, Log: log, DrainTime: 2 * time.Second, LookupHost: w.mesh.lookupHost,
		Metadata: map[string]any{"INSTANCE_IPS": ip, "INTERCEPTION_MODE": "NONE"}}
	here := moved{w.IP(), listener.Sockets{Sockets: loop.Kernel()}}
	switch {
	case w.Gateway:
		o.Listen = here
	case w.Captured:
		o.Listen, o.OnDemand, o.Early = own{here, w}, true, &proxy.Early{Port: outboundPort}
		o.Poller = func() (loop.Poller, error) { p, err := loop.NewPoller(); return captured{p, w.capture}, err }
		o.Metadata["INTERCEPTION_MODE"], o.Metadata["DNS_CAPTURE"] = "REDIRECT", "true"
		o.Metadata["WEIR"] = map[string]any{"VHDS": true, "ONDEMAND": true, "NETWORK_EXT_AUTHZ": true}
	default:
		var inbound []any
		for _, p := range w.Ports {
			inbound = append(inbound, map[string]any{"port": float64(p.Number), "bind": w.inbound(p.Number).String(), "app": w.App(p.Number).String()})
		}
		o.Source = w.IP()
		o.Metadata["WEIR"] = map[string]any{"VIRTUAL_NET": fmt.Sprintf("127.%d", w.net), "INBOUND": inbound, "NETWORK_EXT_AUTHZ": true}
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return o, err
	}
	if err := os.Remove(w.admin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return o, err
	}
	admin, err := net.Listen("unix", w.admin)
	if err != nil {
		return o, err
	}
	o.Admin = []net.Listener{admin}
	o.Control, err = w.control()
	return o, err
}

// control is the way to the control plane, with a token for the first certificate.
func (w *Workload) control() (*proxy.Control, error) {
	id, signer, err := w.mesh.signer(w.Namespace, w.ServiceAccount, w.Name)
	if err != nil {
		return nil, err
	}
	roots, err := w.mesh.Roots()
	if err != nil {
		return nil, err
	}
	return &proxy.Control{TrustDomain: trustDomain, ID: id, Signer: signer, Bootstrap: roots, Address: w.mesh.target(), Server: istiod()[0].String(),
		Dial: func(_ context.Context, held *identity.Manager) (client.Conn, error) {
			return grpc.NewClient(w.mesh.target(), append(client.DialOptions(), grpc.WithContextDialer(w.link.Dial),
				// A handshake that comes to nothing over a Link is to be noticed soon.
				grpc.WithConnectParams(grpc.ConnectParams{Backoff: grpcbackoff.DefaultConfig, MinConnectTimeout: 5 * time.Second}),
				grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(held, istiod()))))...)
		}}, nil
}

// End drains the workload, stops it and forgets it, as a Deployment that is scaled down
// would.
func (w *Workload) End() {
	w.mesh.T.Helper()
	w.SetHealth("draining")
	w.StopApp()
	w.StopProxy()
	m := w.mesh
	if err := os.Remove(w.podFile()); err != nil {
		m.T.Fatal(err)
	}
	w.awaitKnown("gone")
	w.end()
	m.mu.Lock()
	m.workloads = slices.DeleteFunc(m.workloads, func(o *Workload) bool { return o == w })
	m.mu.Unlock()
}

// end stops what runs, for the end of the mesh.
func (w *Workload) end() {
	w.http.close()
	w.mu.Lock()
	app, p := w.app, w.proxy
	w.app, w.proxy = nil, nil
	w.mu.Unlock()
	if p != nil {
		p.cancel()
	}
	if app != nil {
		_ = app.stop()
	}
	if p != nil {
		<-p.done
	}
	for _, t := range w.taps {
		t.close()
	}
	_ = w.lock.Close()
}

// running are the workloads whose proxy runs.
func (m *Mesh) running() []*Workload {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*Workload
	for _, w := range m.workloads {
		w.mu.Lock()
		if w.proxy != nil {
			out = append(out, w)
		}
		w.mu.Unlock()
	}
	return out
}

// moved listens on another address wherever every address was asked for: a gateway's
// ports are then its own.
type moved struct {
	to   netip.Addr
	next listener.ListenSource
}

func (s moved) Listen(a loop.Addr, n int, o listener.SocketOptions) ([]int, error) {
	if a.Path == "" && a.Addr().IsUnspecified() {
		a.AddrPort = netip.AddrPortFrom(s.to, a.Port())
	}
	return s.next.Listen(a, n, o)
}
