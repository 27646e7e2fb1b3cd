package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/capture/cni"
)

const (
	uid    = "0a1b2c3d-0000-4000-8000-000000000001"
	before = `"prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}],"dns":{}}`
)

// node is a fake of the world: a cluster of pods, and the namespaces of a node by path.
type node struct {
	pods  map[string]*corev1.Pod
	fails []error // what the API server answers first
	asked int

	inside  string                     // namespace
	rules   map[string]capture.Ruleset // by namespace
	refuses error                      // the kernel
	reports []cni.Report
}

func (n *node) plugin(out io.Writer) *cni.Plugin {
	return &cni.Plugin{
		Out: out,
		Pod: func(_ context.Context, _ *cni.Config, namespace, name string) (*corev1.Pod, error) {
			n.asked++
			if len(n.fails) > 0 {
				err := n.fails[0]
				if n.fails = n.fails[1:]; err != nil {
					return nil, err
				}
			}
			if p := n.pods[namespace+"/"+name]; p != nil {
				return p, nil
			}
			return nil, errors.New("no such pod")
		},
		Kernel: n.kernel(),
		Tell: func(_ *cni.Config, r cni.Report) {
			r.Seconds = 0
			n.reports = append(n.reports, r)
		},
	}
}

func (n *node) kernel() cni.Kernel {
	return cni.Kernel{
		In: func(path string, f func() error) error {
			n.inside = path
			return f()
		},
		Apply: func(r capture.Ruleset) error {
			if n.refuses != nil {
				return n.refuses
			}
			if n.rules == nil {
				n.rules = map[string]capture.Ruleset{}
			}
			n.rules[n.inside] = r
			return nil
		},
		Present: func() (bool, error) { _, ok := n.rules[n.inside]; return ok, nil },
		IPv6:    func() (bool, error) { return n.inside == "/run/netns/six", nil },
	}
}

// meshed is a pod that was injected with its rules left to the node.
func meshed(args ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: types.UID(uid)},
		Spec:       corev1.PodSpec{InitContainers: []corev1.Container{{Name: "istio-validation", Args: append([]string{"init"}, args...)}}},
	}
}

// call runs the plugin as a container runtime does, by skel.
func call(t *testing.T, n *node, command, conf, args, netns string) (result string, err error) {
	t.Helper()
	for k, v := range map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": "c0ffee", "CNI_NETNS": netns, "CNI_IFNAME": "eth0", "CNI_ARGS": args,
		"CNI_PATH": "/opt/cni/bin", "CNI_NETNS_OVERRIDE": "true"} {
		t.Setenv(k, v)
	}
	r, w, e := os.Pipe()
	if e != nil {
		t.Fatal(e)
	}
	if _, e := io.WriteString(w, conf); e != nil {
		t.Fatal(e)
	}
	_ = w.Close()
	stdin := os.Stdin
	os.Stdin = r
	defer func() { os.Stdin = stdin; _ = r.Close() }()
	var out bytes.Buffer
	if e := skel.PluginMainFuncsWithError(n.plugin(&out).Funcs(), version.All, ""); e != nil {
		return out.String(), e
	}
	return out.String(), nil
}

func conf(more string) string {
	return `{"cniVersion":"1.0.0","name":"n","type":"weir-cni","excludeNamespaces":["kube-system"]` + more + `}`
}

func pod(namespace, name, uid string) string {
	return "IgnoreUnknown=1;K8S_POD_NAMESPACE=" + namespace + ";K8S_POD_NAME=" + name + ";K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=" + uid
}

// What ADD does about each kind of pod. A pod that needs rules has them or does not start.
func TestAdd(t *testing.T) {
	all := strings.Fields("-i * -b * --run-validation --skip-rule-apply")
	plain := meshed()
	plain.Spec.InitContainers[0].Name = "migrate"
	host := meshed(all...)
	host.Spec.HostNetwork = true
	for _, c := range []struct {
		name   string
		pod    *corev1.Pod
		args   string
		fails  []error
		kernel error
		want   string // result of the report, and what its error contains
		rules  bool
		asks   int
	}{
		{"a pod whose rules are left to the node", meshed(all...), pod("shop", "cart", uid), nil, nil, "captured", true, 1},
		{"a runtime that says no uid", meshed(all...), "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart", nil, nil, "captured", true, 1},
		{"a pod without that init container: not meshed, a gateway, or with an init container of its own", plain, pod("shop", "cart", uid), nil, nil, "ignored", false, 1},
		{"a pod of the host's network, should a runtime ask", host, pod("shop", "cart", uid), nil, nil, "ignored", false, 1},
		{"an excluded namespace needs no API server", nil, pod("kube-system", "dns", uid), nil, nil, "ignored", false, 0},
		{"a static pod needs none: nobody injects it, and the API server may be one", nil, pod("shop", "etcd", strings.Repeat("ab12", 8)), nil, nil, "ignored", false, 0},
		{"no pod of Kubernetes", nil, "IgnoreUnknown=1", nil, nil, "ignored", false, 0},
		{"an API server that stumbles is asked again", meshed(all...), pod("shop", "cart", uid), []error{cni.ErrAway, fmt.Errorf("%w: reset", cni.ErrAway)}, nil, "captured", true, 3},
		{"an API server that refuses is not asked again", meshed(all...), pod("shop", "cart", uid), []error{errors.New("no longer accepts the token")}, nil, "failed no longer accepts the token", false, 1},
		{"a pod that is gone", nil, pod("shop", "cart", uid), nil, nil, "failed no such pod", false, 1},
		{"another pod of the same name", meshed(all...), pod("shop", "cart", "f"+uid[1:]), nil, nil, "failed another pod of that name", false, 1},
		{"arguments that cannot be read", meshed("-b", "http"), pod("shop", "cart", uid), nil, nil, `failed istio-validation: invalid value "http"`, false, 1},
		{"a kernel that refuses", meshed(all...), pod("shop", "cart", uid), nil, errors.New("no nf_tables"), "failed no nf_tables", false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &node{pods: map[string]*corev1.Pod{"shop/cart": c.pod}, fails: c.fails, refuses: c.kernel}
			out, err := call(t, n, "ADD", conf(","+before), c.args, "/run/netns/a")
			if len(n.reports) != 1 {
				t.Fatalf("%d reports", len(n.reports))
			}
			word, problem, _ := strings.Cut(c.want, " ")
			r := n.reports[0]
			if r.Result != word || !strings.Contains(r.Error, problem) || (err != nil) != (word == "failed") || n.asked != c.asks {
				t.Errorf("%+v, asked %d times, %v", r, n.asked, err)
			}
			if _, made := n.rules["/run/netns/a"]; made != c.rules {
				t.Errorf("rules: %v", n.rules)
			}
			if err != nil {
				if !strings.Contains(err.Error(), "pod shop/cart is not started, because its traffic would not be captured: ") || out != "" {
					t.Errorf("%q %v", out, err)
				}
				return
			}
			var got struct{ IPs []struct{ Address string } }
			if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.IPs) != 1 || got.IPs[0].Address != "10.1.2.3/24" {
				t.Errorf("the result of the plugin before is not passed on: %q %v", out, err)
			}
		})
	}
}

// An API server that is away fails the call after seconds, and the runtime tries again.
func TestAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		for range 1000 {
			n.fails = append(n.fails, fmt.Errorf("%w: connection refused", cni.ErrAway))
		}
		err := n.plugin(io.Discard).Funcs().Add(&skel.CmdArgs{Args: pod("shop", "cart", uid), Netns: "/run/netns/a", StdinData: []byte(conf("," + before))})
		if err == nil || !strings.Contains(err.Error(), "the API server does not answer: connection refused") || n.asked < 20 || n.asked > 40 {
			t.Errorf("asked %d times: %v", n.asked, err)
		}
	})
}

// CHECK notices rules that are gone; DEL has nothing to do and never fails; what is not
// chained, or not JSON, is refused.
func TestOtherCommands(t *testing.T) {
	n := &node{pods: map[string]*corev1.Pod{"shop/cart": meshed("-i", "*", "-b", "*")}}
	args := pod("shop", "cart", uid)
	for _, c := range []struct{ command, conf, netns, want string }{
		{"CHECK", conf("," + before), "/run/netns/a", "pod shop/cart: its capture rules are gone"},
		{"ADD", conf("," + before), "/run/netns/a", ""},
		{"CHECK", conf("," + before), "/run/netns/a", ""},
		{"ADD", conf("," + before), "/run/netns/six", ""},
		{"DEL", conf(""), "/run/netns/a", ""},
		{"DEL", conf(""), "", ""},
		{"ADD", conf(""), "/run/netns/a", "weir-cni is a chained plugin"},
		{"ADD", `{"name":"n","cniVersion":"1.0.0","kubeconfig":1}`, "/run/netns/a", "reading the configuration of weir-cni"},
		{"ADD", `{"name":"n","cniVersion":"9.0.0"}`, "/run/netns/a", "incompatible CNI versions"},
	} {
		_, err := call(t, n, c.command, c.conf, args, c.netns)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.command, c.conf, err, c.want)
		}
	}
	if four, six := n.rules["/run/netns/a"], n.rules["/run/netns/six"]; len(four.Lo) != 0 || len(six.Lo) != 1 {
		t.Errorf("IPv6 is seen from inside the namespace: %v %v", four.Lo, six.Lo)
	}
	n.fails = []error{errors.New("away")}
	if _, err := call(t, n, "CHECK", conf(","+before), args, "/run/netns/a"); err == nil {
		t.Error("CHECK without an API server")
	}
}

// The file by which the plugin reaches the API server, and what each answer of it means.
func TestAccess(t *testing.T) {
	code := 0
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/namespaces/shop/pods/cart" || r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(meshed())
	}))
	defer s.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	data, err := cni.Access{Server: s.URL, CA: ca, Token: "secret"}.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	c := &cni.Config{Kubeconfig: file}
	if _, err := cni.FromKubeconfig(t.Context(), c, "shop", "cart"); !errors.Is(err, cni.ErrAway) || !strings.Contains(err.Error(), "has not written "+file) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		code int
		away bool
		want string
	}{
		{200, false, ""}, {401, false, "no longer accepts the token"}, {403, false, "check its ClusterRole"}, {404, false, "no such pod"},
		{429, true, "429"}, {503, true, "503"}, {302, false, "302"},
	} {
		code = x.code
		p, err := cni.FromKubeconfig(t.Context(), c, "shop", "cart")
		if (err == nil) != (x.want == "") || errors.Is(err, cni.ErrAway) != x.away || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%d: %v", x.code, err)
		}
		if err == nil && (string(p.UID) != uid || cni.Validation(p) == nil) {
			t.Errorf("%+v", p)
		}
	}
	s.Close()
	if _, err := cni.FromKubeconfig(t.Context(), c, "shop", "cart"); !errors.Is(err, cni.ErrAway) {
		t.Errorf("a closed port: %v", err)
	}
	for _, bad := range []string{"", "{}", `{"clusters":[{}],"users":[{}]}`, `{"clusters":[{"cluster":{"server":"http://x"}}],"users":[{}]}`} {
		if a, err := cni.ReadAccess([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, a)
		}
	}
}

// Reports come to the agent whole, however long an error is; nobody there is no trouble.
func TestReport(t *testing.T) {
	c := &cni.Config{Socket: filepath.Join(t.TempDir(), "s")}
	cni.Send(c, cni.Report{Operation: "ADD"})
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: c.Socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	want := cni.Report{Operation: "ADD", Pod: "shop/cart", Result: "failed", Error: strings.Repeat("\x01", cni.MaxReport), Seconds: 0.25}
	cni.Send(c, want)
	buf := make([]byte, 2*cni.MaxReport)
	n, err := l.Read(buf)
	if err != nil || n > cni.MaxReport {
		t.Fatal(n, err)
	}
	got, err := cni.ReadReport(buf[:n])
	want.Error = want.Error[:len(got.Error)]
	if d := cmp.Diff(want, got); d != "" || err != nil || got.Error == "" {
		t.Errorf("%v (-want +got)\n%s", err, d)
	}
}
