package cni_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/capture/cni"
)

// asPod is set in the copy of the test binary that is a pod's process.
const asPod = "WEIR_CNI_TEST_AS_POD"

// TestKernel has the plugin make real rules in the network namespace of another process,
// which then proves them as a pod's init container does; those of the caller stay.
func TestKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("entering another's network namespace needs root")
	}
	for _, c := range []struct {
		name string
		args []string
		ipv6 string // whether ::6 is there afterwards
		want string
	}{
		{"everything captured, in a pod with IPv6", strings.Fields("-i * -b * -d 15090,15021,15020 --redirect-dns --run-validation --skip-rule-apply"), "fd00::2/128", "proved [::6/128]"},
		{"ports and ranges, in a pod without", strings.Fields("-i 10.0.0.0/8 -x 10.1.0.0/16 -b 8080 -o 25"), "", "proved []"},
		{"TPROXY", strings.Fields("-m TPROXY -i * -b *"), "", "proved []"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestAsPod$", "-test.v")
			cmd.Env = append(os.Environ(), asPod+"=1", asPod+"_IPV6="+c.ipv6)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Skipf("no network namespaces here: %v", err)
			}
			defer func() { _ = cmd.Wait() }()
			defer func() { _ = in.Close() }()
			lines := bufio.NewScanner(out)
			says := func() string {
				for lines.Scan() {
					if s, ok := strings.CutPrefix(lines.Text(), "pod: "); ok {
						return s
					}
				}
				return ""
			}
			if s := says(); s != "up" {
				t.Skipf("the pod's process: %q", s)
			}
			k, netns := cni.Linux(), fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
			was, err := k.Protected("/proc/self/ns/net")
			if err != nil {
				t.Skip(err)
			}
			p := &cni.Plugin{Out: &bytes.Buffer{}, Kernel: k, Pod: func(context.Context, *cni.Config, string, string) (*corev1.Pod, error) { return meshed(c.args...), nil }}
			a := &skel.CmdArgs{Args: pod("shop", "cart", uid), Netns: netns, StdinData: []byte(conf("," + before))}
			if err := p.Funcs().Check(a); err == nil {
				t.Error("CHECK finds rules before there are any")
			}
			for range 2 { // a runtime may call again
				if err := p.Funcs().Add(a); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Funcs().Check(a); err != nil {
				t.Error(err)
			}
			if after, err := k.Protected("/proc/self/ns/net"); err != nil || after != was {
				t.Errorf("rules in the caller's own namespace: before %v, after %v, %v", was, after, err)
			}
			if _, err := io.WriteString(in, "prove\n"); err != nil {
				t.Fatal(err)
			}
			if s := says(); s != c.want {
				t.Errorf("the pod says %q, want %q", s, c.want)
			}
		})
	}
}

// TestAsPod is the pod's process.
func TestAsPod(t *testing.T) {
	if os.Getenv(asPod) == "" {
		t.Skip("runs inside TestKernel")
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if a := os.Getenv(asPod + "_IPV6"); err == nil && a != "" {
		var addr *netlink.Addr
		if addr, err = netlink.ParseAddr(a); err == nil {
			err = netlink.AddrAdd(lo, addr)
		}
	}
	if err != nil {
		fmt.Println("pod:", err)
		return
	}
	fmt.Println("pod: up")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := capture.Verify(ctx, 15006, capture.ProbePort); err != nil {
		fmt.Println("pod:", err)
		return
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		fmt.Println("pod:", err)
		return
	}
	var ours []string
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == capture.Passthrough6 {
			ours = append(ours, p.String())
		}
	}
	fmt.Println("pod: proved", slices.Compact(ours))
}
