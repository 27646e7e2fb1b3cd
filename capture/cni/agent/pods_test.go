package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/capture/cni"
)

func uid(n int) types.UID {
	return types.UID(fmt.Sprintf("%08d-0000-4000-8000-000000000000", n))
}

// pod number n, named by it, in namespace shop, whose init container istio-validation is in
// this state.
func pod(n int, state corev1.ContainerState, last ...corev1.ContainerState) *corev1.Pod {
	s := corev1.ContainerStatus{Name: cni.ValidationContainer, State: state}
	if len(last) > 0 {
		s.LastTerminationState = last[0]
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("p%d", n), UID: uid(n)},
		Spec:       corev1.PodSpec{NodeName: "n1", InitContainers: []corev1.Container{{Name: cni.ValidationContainer, Args: strings.Fields("init -i * -b *")}}},
		Status:     corev1.PodStatus{Phase: corev1.PodPending, InitContainerStatuses: []corev1.ContainerStatus{s}},
	}
}

func ended(code int32) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}
}

var (
	created = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}
	proving = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	crashed = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
)

func TestNeeds(t *testing.T) {
	change := func(p *corev1.Pod, do func(*corev1.Pod)) *corev1.Pod { do(p); return p }
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want need
	}{
		{"just made", pod(1, created), waiting},
		{"proving", pod(1, proving), waiting},
		{"could not prove them", pod(1, ended(126)), failed},
		{"waits to try again", pod(1, crashed, ended(126)), failed},
		{"tries again", pod(1, proving, ended(126)), failed},
		{"has proved them", pod(1, ended(0)), runs},
		{"proved them when it was tried again", pod(1, ended(0), ended(126)), runs},
		{"no status yet", change(pod(1, created), func(p *corev1.Pod) { p.Status.InitContainerStatuses = nil }), waiting},
		{"done", change(pod(1, ended(0)), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), nothing},
		{"not meshed, or with rules of its own", change(pod(1, ended(0)), func(p *corev1.Pod) { p.Spec.InitContainers[0].Name = "istio-init" }), nothing},
		{"in the host's network", change(pod(1, ended(0)), func(p *corev1.Pod) { p.Spec.HostNetwork = true }), nothing},
		{"in a namespace left out", change(pod(1, ended(0)), func(p *corev1.Pod) { p.Namespace = "kube-system" }), nothing},
	} {
		if got := needs(c.pod, []string{"kube-system"}); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
		trim(c.pod)
		if got := needs(c.pod, []string{"kube-system"}); got != c.want {
			t.Errorf("%s, trimmed: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestPodOf(t *testing.T) {
	const u = "0a1b2c3d-1111-4222-8333-0123456789ab"
	for text, want := range map[string]string{
		"0::/kubepods/burstable/pod" + u + "/c0ffee\n":                                                                 u,
		"12:cpu:/kubepods/pod" + u + "/c0ffee\n11:memory:/\n":                                                          u,
		"0::/../../kubepods-besteffort-pod" + strings.ReplaceAll(u, "-", "_") + ".slice/cri-containerd-c0ffee.scope\n": u,
		"0::/kubepods.slice/kubepods-pod" + strings.ReplaceAll(u, "-", "_") + ".slice:cri-containerd:c0ffee\n":         u,
		"0::/system.slice/kubelet.service\n":                                                                           "",
		"":                                                                                                             "",
		"0::/kubepods/podc0ffee\n":                                                                                     "",
	} {
		if got, _ := podOf(text); string(got) != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// node is a /proc of processes, and their network namespaces with rules or without.
type node struct {
	t      *testing.T
	proc   string
	spaces map[string]bool // by process: whether there are rules
	stuck  bool            // the kernel refuses rules
	inside string
}

func newNode(t *testing.T) *node {
	n := &node{t: t, proc: t.TempDir(), spaces: map[string]bool{}}
	n.process(1, "0::/init.scope\n", "host")
	n.process(7, "0::/system.slice/kubelet\n", "host")
	return n
}

// process adds one, in a network namespace of that name.
func (n *node) process(pid int, cgroup, space string) {
	dir := filepath.Join(n.proc, fmt.Sprint(pid))
	if err := os.MkdirAll(filepath.Join(dir, "ns"), 0o755); err != nil {
		n.t.Fatal(err)
	}
	write(n.t, filepath.Join(dir, "cgroup"), cgroup)
	file := filepath.Join(n.proc, "net-"+space)
	if _, err := os.Stat(file); err != nil {
		write(n.t, file, space)
	}
	if err := os.Symlink(file, filepath.Join(dir, "ns", "net")); err != nil {
		n.t.Fatal(err)
	}
}

func cgroup(n int, rest string) string {
	return "0::/kubepods/burstable/pod" + string(uid(n)) + "/" + rest + "\n"
}

func (n *node) kernel() cni.Kernel {
	return cni.Kernel{
		In: func(path string, f func() error) error {
			space, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			n.inside = string(space)
			return f()
		},
		Apply: func(capture.Ruleset) error {
			if n.stuck {
				return errors.New("no nf_tables")
			}
			n.spaces[n.inside] = true
			return nil
		},
		Present: func() (bool, error) { return n.spaces[n.inside], nil },
		IPv6:    func() (bool, error) { return false, nil },
	}
}

// TestProcesses: of a pod's processes the first counts; nobody enters the host's network,
// nor that of a process that got the number of another.
func TestProcesses(t *testing.T) {
	n := newNode(t)
	n.process(30, cgroup(1, "app/nested"), "nested")
	n.process(41, cgroup(1, "app"), "one")
	n.process(40, cgroup(1, "pause"), "one")
	n.process(50, cgroup(2, "pause"), "host")
	got, err := processes(n.proc)
	if err != nil || len(got) != 2 || got[uid(1)].pid != 40 || got[uid(2)].pid != 50 {
		t.Fatalf("%v %v", got, err)
	}
	if err := got[uid(1)].still(uid(1)); err != nil {
		t.Error(err)
	}
	for want, p := range map[string]process{"in the host's network": got[uid(2)], "no longer the pod's": {proc: n.proc, pid: 7}, "has ended": {proc: n.proc, pid: 99}} {
		if err := p.still(uid(2)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// What each mode does about pods, one of each need. First those that wait are looked at,
// then those that run, and then all again, when nothing new may be done.
func TestLook(t *testing.T) {
	for _, c := range []struct {
		mode  Mode
		stuck bool
		want  string // pods with rules, labelled, deleted; bad ones; metrics
	}{
		{Repair, false, "rules p1 p2 p3 p4 | labels - | deleted - | unprotected 0 | repair success 3"},
		{Repair, true, "rules p4 | labels p1 p2 p3 | deleted - | unprotected 3 | repair failure 7"},
		{Delete, false, "rules p4 | labels - | deleted p2 p3 | unprotected 0 | delete success 2"},
		{Label, false, "rules p4 | labels p2 p3 | deleted - | unprotected 2 |"},
	} {
		t.Run(fmt.Sprint(c.mode, c.stuck), func(t *testing.T) {
			n := newNode(t)
			n.stuck = c.stuck
			all := []*corev1.Pod{pod(1, created), pod(2, crashed, ended(126)), pod(3, ended(0)), pod(4, ended(0)), pod(5, created)}
			client := fake.NewClientset()
			for i, p := range all {
				if _, err := client.CoreV1().Pods("shop").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				if i < 4 { // the fifth has no process yet
					n.process(100+i, cgroup(i+1, "pause"), p.Name)
				}
			}
			n.spaces["p4"] = true
			o := &Options{Client: client, Node: "n1", Repair: c.mode, Proc: n.proc, Kernel: n.kernel(), Log: slog.New(slog.DiscardHandler)}
			m := newMetrics()
			p := newPods(o, m)
			refresh := func() {
				list, err := client.CoreV1().Pods("shop").List(context.Background(), metav1.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}
				gone := map[types.NamespacedName]bool{}
				for name := range p.known {
					gone[name] = true
				}
				var changes []change
				for i := range list.Items {
					delete(gone, nameOf(&list.Items[i]))
					changes = append(changes, change{nameOf(&list.Items[i]), &list.Items[i]})
				}
				for name := range gone {
					changes = append(changes, change{name: name})
				}
				p.learn(changes)
			}
			for range 2 {
				refresh()
				p.look(t.Context(), waiting)
				p.look(t.Context(), runs)
			}
			refresh()
			list, err := client.CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var rules, labels, deleted []string
			for _, was := range all {
				if n.spaces[was.Name] {
					rules = append(rules, was.Name)
				}
				i := slices.IndexFunc(list.Items, func(p corev1.Pod) bool { return p.Name == was.Name })
				if i < 0 {
					deleted = append(deleted, was.Name)
				} else if list.Items[i].Labels[Unprotected] == "true" {
					labels = append(labels, was.Name)
				}
			}
			words := func(s []string) string { return cmp.Or(strings.Join(s, " "), "-") }
			got := fmt.Sprintf("rules %s | labels %s | deleted %s | unprotected %d |%s", words(rules), words(labels), words(deleted), len(p.bad), counted(t, m))
			if d := gocmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if c.mode == Repair && !c.stuck {
				// A pod that runs loses its rules; another has a new sandbox, of which kubelet has said nothing yet.
				n.spaces["p4"], n.spaces["p3"] = false, false
				n.process(99, cgroup(3, "pause"), "p3")
				p.look(t.Context(), runs)
				events, err := client.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
				if err != nil || len(events.Items) != 1 || events.Items[0].InvolvedObject.Name != "p4" || !n.spaces["p4"] || !n.spaces["p3"] {
					t.Errorf("events %+v, rules %v, %v", events.Items, n.spaces, err)
				}
				// It is remembered for a while that it ran without.
				lost := func() string {
					now, err := client.CoreV1().Pods("shop").Get(t.Context(), "p4", metav1.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					return now.Annotations[RanUnprotected]
				}
				if _, err := time.Parse(time.RFC3339, lost()); err != nil {
					t.Errorf("p4 ran without rules, and nothing says so: %q", lost())
				}
				refresh()
				if p.look(t.Context(), runs); lost() == "" {
					t.Error("that p4 ran without rules is forgotten at once")
				}
				p.known[types.NamespacedName{Namespace: "shop", Name: "p4"}].Annotations = map[string]string{RanUnprotected: time.Now().Add(-lostKept - time.Minute).Format(time.RFC3339)}
				if p.look(t.Context(), runs); lost() != "" {
					t.Errorf("that p4 ran without rules is said for ever: %s", lost())
				}
			}
			if !c.stuck {
				return
			}
			// The kernel relents: labels go.
			n.stuck = false
			p.look(t.Context(), waiting)
			p.look(t.Context(), runs)
			for _, name := range []string{"p1", "p2", "p3"} {
				now, err := client.CoreV1().Pods("shop").Get(t.Context(), name, metav1.GetOptions{})
				if err != nil || now.Labels[Unprotected] != "" || !n.spaces[name] {
					t.Errorf("%s: labels %v, rules %v, %v", name, now.Labels, n.spaces[name], err)
				}
			}
			if len(p.bad) > 0 {
				t.Errorf("still said to be bad: %v", p.bad)
			}
		})
	}
}

// A pod that ran with rules when the news of it came loses them before the next look at those that run: that it ran unprotected is said.
func TestLostSoon(t *testing.T) {
	n := newNode(t)
	running := pod(1, ended(0))
	n.process(100, cgroup(1, "pause"), running.Name)
	n.spaces[running.Name] = true
	client := fake.NewClientset(running)
	p := newPods(&Options{Client: client, Node: "n1", Repair: Repair, Proc: n.proc, Kernel: n.kernel(), Log: slog.New(slog.DiscardHandler)}, newMetrics())
	p.learn([]change{{nameOf(running), running}})
	p.look(t.Context(), waiting)
	n.spaces[running.Name] = false
	p.look(t.Context(), waiting) // which is not about it any more
	if n.spaces[running.Name] {
		t.Error("a pod that runs is looked at all the time")
	}
	p.look(t.Context(), runs)
	events, err := client.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(events.Items) != 1 || !n.spaces[running.Name] {
		t.Errorf("events %+v, rules %v, %v", events.Items, n.spaces, err)
	}
}

// counted is what the metric of repairs says.
func counted(t *testing.T, m *metrics) (out string) {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "istio_cni_repair_pods_repaired_total" {
			continue
		}
		for _, x := range f.GetMetric() {
			out += fmt.Sprintf(" %s %s %.0f", x.GetLabel()[1].GetValue(), x.GetLabel()[0].GetValue(), x.GetCounter().GetValue())
		}
	}
	return out
}
