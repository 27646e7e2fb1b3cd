package acceptance_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What nobody who has taken over a proxy may do: list of what the profiles of container runtimes refuse without capabilities, and
// what lets one process reach into another or make new ones.
var dangerous = strings.Fields(`acct add_key adjtimex bpf chroot clock_settime clone3 create_module delete_module finit_module fsconfig fsmount fsopen
	fspick get_mempolicy init_module ioperm iopl io_uring_setup kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind mknod mknodat mount
	mount_setattr move_mount move_pages name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open personality pidfd_getfd pivot_root
	process_vm_readv process_vm_writev ptrace query_module quotactl reboot request_key setdomainname sethostname setns setuid setgid setresuid setresgid
	setgroups capset settimeofday swapoff swapon sysfs syslog umount umount2 unshare userfaultfd vhangup fork vfork kill chmod chown fchown fchownat
	lchown link linkat symlink symlinkat ioctl memfd_create execveat`)

// A proxy asks its kernel for little, and has no say in what: the profile that is shipped allows nothing dangerous.
func TestProfileOfSystemCalls(t *testing.T) {
	allowed, err := readProfile(filepath.Join("..", "..", "install", "seccomp", "weir-proxy.json"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, name := range allowed {
		if seen[name] {
			t.Errorf("%s is listed twice", name)
		}
		if seen[name] = true; slices.Contains(dangerous, name) {
			t.Errorf("%s is allowed", name)
		}
	}
	if _, err := seccomp(allowed); err != nil {
		t.Error(err)
	}
}

const confinedMesh = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: echo}
spec: {selector: {matchLabels: {app: echo}}, mtls: {mode: DISABLE}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {app: echo}, ports: [{name: tcp, port: 9000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  selector: {matchLabels: {app: echo}}
  template: {metadata: {labels: {app: echo}}, spec: {containers: [{name: echo, image: docker.io/istio/tcp-echo-server:1.3, args: ["9000", "hello"], ports: [{containerPort: 9000}]}]}}
---
`

const confinedRoute = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: relay}
spec:
  hosts: ["*"]
  gateways: [edge]
  http: [{headers: {response: {set: {x-version: %q}}}, route: [{destination: {host: relay, port: {number: 9080}}}]}]
`

// The proxies of a mesh run as strictly as a pod can have them (see confine), and serve: certificates, mutual TLS, bytes that are
// spliced, changes of configuration, the end of a workload. What they ask their kernel for is what the profile that is shipped allows.
func TestConfinedProxies(t *testing.T) {
	if !required() || os.Geteuid() != 0 {
		t.Skip("it needs root, and whole meshes: make root-test runs it")
	}
	m := prepare(t, options{capture: "env", args: []string{"--log-proxies"}})
	m.confine()
	m.write("mesh.yaml", confinedMesh+programYAML(m, "relay", "polite", 9080)+fmt.Sprintf(confinedRoute, "one"))
	m.up()

	version := func(want string) {
		t.Helper()
		wait(t, patience, "version "+want+" through gateway and sidecar", func() error {
			r, err := m.client.Get("http://" + m.ingress + "/")
			if err != nil {
				return err
			}
			defer r.Body.Close()
			b, err := io.ReadAll(r.Body)
			if got := r.Header.Get("x-version"); err != nil || r.StatusCode != http.StatusOK || string(b) != "here\n" || got != want {
				return fmt.Errorf("%s, version %q: %q, %w", r.Status, got, b, err)
			}
			return nil
		})
	}
	version("one")
	proxies := m.proxies()
	if len(proxies) != 3 {
		t.Fatalf("%d proxies run: the gateway's, relay's and echo's should", len(proxies))
	}
	for _, p := range proxies {
		for name, want := range map[string]string{"Uid": "1337\t1337\t1337\t1337", "Gid": "1337\t1337\t1337\t1337", "Groups": "", "CapEff": "0000000000000000", "CapPrm": "0000000000000000",
			"CapBnd": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"} {
			if got := p.status(name); got != want {
				t.Errorf("%s of %s is %q, not %q", name, p.flag("--name"), got, want)
			}
		}
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", p.pid))
		if err != nil || !slices.ContainsFunc(strings.Split(string(mounts), "\n"), func(line string) bool {
			f := strings.Fields(line)
			return len(f) > 5 && f[4] == "/" && slices.Contains(strings.Split(f[5], ","), "ro")
		}) {
			t.Errorf("the root of %s can be written: %v\n%s", p.flag("--name"), err, mounts)
		}
	}

	m.echo(64 << 20)
	m.write("mesh.yaml", confinedMesh+programYAML(m, "relay", "polite", 9080)+fmt.Sprintf(confinedRoute, "two"))
	version("two")
	m.remove("mesh.yaml") // the workloads end, and their proxies drain
	wait(t, patience, "the proxies of workloads end", func() error {
		if n := len(m.proxies()); n != 1 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})
	m.end(os.Interrupt)
	if log := m.logs.String(); strings.Contains(log, "SIGSYS") || strings.Contains(log, "operation not permitted") {
		t.Errorf("a proxy asked for what the profile does not allow; add it, if it is to be asked for:\n%s", log)
	}
}

// confine has the mesh's proxies run by way of confine.
func (m *mesh) confine() {
	m.t.Helper()
	bin := filepath.Join(m.dir, "bin")
	err := errors.Join(os.Chmod(m.dir, 0o755), os.Mkdir(bin, 0o755))
	for to, from := range map[string]string{"weir": "weir", "weir-control": "weir-control", "weir-sample": "weir-sample", "program": "program", "weir-proxy": "program", "weir-proxy.real": "weir-proxy"} {
		err = errors.Join(err, copyProgram(filepath.Join(m.bin, from), filepath.Join(bin, to)))
	}
	if err = errors.Join(err, copyProgram(filepath.Join("..", "..", "install", "seccomp", "weir-proxy.json"), filepath.Join(bin, "weir-proxy.json"))); err != nil {
		m.t.Fatal(err)
	}
	m.bin = bin
}

// proxies are those of the mesh that run.
func (m *mesh) proxies() []process {
	return slices.DeleteFunc(processes(), func(p process) bool {
		return p.name() != "weir-proxy" || !strings.HasPrefix(cmp.Or(p.flag("--state"), "/"), m.dir)
	})
}

// echo sends bytes by relay's proxy, in plaintext all the way, and reads as many back.
func (m *mesh) echo(size int) {
	m.t.Helper()
	host := strings.TrimSpace(m.must("exec", "relay", "--", "printenv", "ECHO_SERVICE_HOST"))
	c, err := net.Dial("tcp", net.JoinHostPort(host, "9000"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 1<<10-1) + "\n")
	sent := make(chan error, 1)
	go func() {
		var err error
		for n := 0; n < size && err == nil; n += len(line) {
			_, err = c.Write(line)
		}
		sent <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	n, err := io.Copy(io.Discard, c)
	if err = errors.Join(err, <-sent); err != nil || n < int64(size) {
		m.t.Errorf("of %d bytes %d came back: %v", size, n, err)
	}
}
