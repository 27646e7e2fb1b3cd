package pod

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/local/supervise"
	"github.com/weirmesh/weir/mesh"
)

// Phase is where a pod is, in Kubernetes' words.
type Phase string

// Phases.
const (
	Pending     Phase = "Pending"
	Running     Phase = "Running"
	Terminating Phase = "Terminating"
)

// Info is a pod as people and `weir status` see it.
type Info struct {
	Namespace      string            `json:"namespace"`
	Name           string            `json:"name"`
	Owner          string            `json:"owner,omitempty"` // the Deployment
	ServiceAccount string            `json:"serviceAccount"`
	Labels         map[string]string `json:"labels,omitempty"`
	IP             netip.Addr        `json:"ip,omitzero"`
	Phase          Phase             `json:"phase"`
	Ready          bool              `json:"ready"`
	Gateway        bool              `json:"gateway,omitempty"`
	Restarts       int               `json:"restarts"`
	Message        string            `json:"message,omitempty"` // what it waits for
	Containers     []ContainerInfo   `json:"containers,omitempty"`
	// ProxyPID is a process id of the tree of namespaces, if there is one.
	ProxyPID      int `json:"proxyPid,omitempty"`
	ProxyRestarts int `json:"proxyRestarts,omitempty"`
}

// ContainerInfo is one program of a pod.
type ContainerInfo struct {
	Name     string `json:"name"`
	Command  string `json:"command"`
	PID      int    `json:"pid,omitempty"`
	Restarts int    `json:"restarts"`
	Phase    string `json:"phase,omitempty"`
	Last     string `json:"last,omitempty"` // how it ended the last time
}

// List returns the pods, sorted.
func (r *Runtime) List() []Info {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Info
	for _, k := range slices.Sorted(maps.Keys(r.pods)) {
		out = append(out, r.pods[k].info())
	}
	return out
}

// joinGrace is the grace period of a program that no Deployment gives one.
const joinGrace = 5 * time.Second

// UserError is a mistake of the person who asks, with its remedy.
type UserError struct{ Message, Hint string }

func (e *UserError) Error() string { return e.Message }

// find returns the pod that a person means: by its name, or a Deployment's best one.
func (r *Runtime) find(namespace, name string) (*pod, error) {
	namespace = cmp.Or(namespace, r.o.Namespace)
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pods[mesh.NewKey(namespace, name)]; p != nil {
		return p, nil
	}
	var best *pod
	var names []string
	for _, k := range slices.Sorted(maps.Keys(r.pods)) {
		p := r.pods[k]
		names = append(names, r.display(p.template.Namespace, p.name))
		if p.template.Namespace != namespace || p.template.Owner != name {
			continue
		}
		if best == nil || p.info().Ready && !best.info().Ready {
			best = p
		}
	}
	if best != nil {
		return best, nil
	}
	return nil, &UserError{fmt.Sprintf("there is no workload %s in namespace %s", name, namespace), running(names)}
}

// running is a sentence about what there is.
func running(names []string) string {
	const most = 10 // a person looks through it
	switch n := len(names); {
	case n == 0:
		return "no workload runs"
	case n == 1:
		return "only " + names[0] + " runs"
	case n > most:
		return fmt.Sprintf("%s and %d others run; `weir status` lists them", strings.Join(names[:most], ", "), n-most)
	default:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1] + " run"
	}
}

// Exec is a program to run beside a workload's own.
type Exec struct {
	Namespace, Workload string
	Container           string // whose variables it gets; "": the first
	Argv                []string
	Env                 []string // beside them, and instead
	Dir                 string
	Stdio               [3]*os.File
	TTY                 bool
}

// Exec starts a program in a workload's place: it sees the network as the workload does.
func (r *Runtime) Exec(e Exec) (supervise.Process, error) {
	p, err := r.find(e.Namespace, e.Workload)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	place, programs := p.place, p.programs
	p.mu.Unlock()
	if place == nil {
		return nil, &UserError{fmt.Sprintf("%s is not started yet", p.name), "try again"}
	}
	var env []string
	i := slices.IndexFunc(programs, func(g *program) bool { return e.Container == "" || g.Container.Name == e.Container })
	switch {
	case i >= 0:
		env = programs[i].Env
	case e.Container != "":
		return nil, p.noContainer(e.Container)
	}
	return place.Start(Command{Argv: e.Argv, Env: slices.Concat(r.o.Environ, env, e.Env), Dir: e.Dir, Stdio: e.Stdio, TTY: e.TTY})
}

// Join is a program of the user's that is to be a workload.
type Join struct {
	Namespace, Name string
	Argv            []string
	Environ, Env    []string // what the Deployment's variables win over, and what wins over them
	Dir             string
	Ports           map[string]uint16 // names as Services use them; "" for none
	Labels          map[string]string
	ServiceAccount  string
	Stdio           [3]*os.File
	TTY             bool
}

// Joined is a workload that Join started. It ends when its program does, or by Stop.
type Joined struct {
	// Workload is its name.
	Workload mesh.Key
	// Ready is closed when every proxy knows it; Done when it is gone.
	Ready, Done chan struct{}

	pod   *pod
	join  Join
	once  sync.Once
	mu    sync.Mutex
	err   error
	began bool
}

// Join starts a workload around a program. A Deployment of that name lends its labels,
// service account, ports and variables.
func (r *Runtime) Join(j Join) (*Joined, error) {
	namespace := cmp.Or(j.Namespace, r.o.Namespace)
	if j.Name == "" || len(j.Argv) == 0 {
		return nil, &UserError{"a workload needs a name and a command", "weir run --as NAMESPACE/NAME -- COMMAND"}
	}
	if err := j.check(namespace); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil || r.ctx.Err() != nil {
		return nil, errors.New("the mesh is not running")
	}
	out := &Joined{join: j, Ready: make(chan struct{})}
	out.pod = r.start(j.Name, "", joinTemplate(r.plan.Group(namespace, j.Name), namespace, j), out)
	out.Workload, out.Done = out.pod.key(), out.pod.done
	return out, nil
}

// check refuses what Kubernetes would: names become parts of files' names, identities and
// labels.
func (j Join) check(namespace string) error {
	bad := func(what, value, hint string) error {
		return &UserError{fmt.Sprintf("%q is not a %s", value, what), hint}
	}
	const name = "use lower-case letters, digits and '-', beginning and ending with a letter or digit"
	switch {
	case len(validation.IsDNS1123Label(namespace)) > 0:
		return bad("namespace", namespace, name)
	case len(validation.IsDNS1123Subdomain(j.Name)) > 0 || len(validation.IsValidLabelValue(j.Name)) > 0:
		return bad("workload's name", j.Name, name+", at most 63")
	case j.ServiceAccount != "" && len(validation.IsDNS1123Subdomain(j.ServiceAccount)) > 0:
		return bad("service account's name", j.ServiceAccount, name)
	}
	for _, k := range slices.Sorted(maps.Keys(j.Labels)) {
		if len(validation.IsQualifiedName(k)) > 0 || len(validation.IsValidLabelValue(j.Labels[k])) > 0 {
			return bad("label", k+"="+j.Labels[k], "use letters, digits, '-', '_' and '.', at most 63 on each side")
		}
	}
	for _, p := range slices.Sorted(maps.Keys(j.Ports)) {
		if p != "" && len(validation.IsDNS1123Label(p)) > 0 {
			return bad("port's name", p, name+": http, http-admin, tcp")
		}
	}
	return nil
}

func joinTemplate(g *plan.Group, namespace string, j Join) *plan.Template {
	t := plan.Template{Namespace: namespace, Owner: j.Name, ServiceAccount: j.Name, Labels: map[string]string{"app": j.Name}, Grace: joinGrace}
	c := plan.Container{Name: j.Name}
	if g != nil {
		from := g.Template
		t.ServiceAccount, t.Annotations, t.Labels = from.ServiceAccount, from.Annotations, maps.Clone(from.Labels)
		t.Grace, t.NoServiceLinks = from.Grace, from.NoServiceLinks
		if len(from.Containers) > 0 {
			c = from.Containers[0]
		}
	}
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	maps.Copy(t.Labels, j.Labels)
	t.ServiceAccount = cmp.Or(j.ServiceAccount, t.ServiceAccount)
	if len(j.Ports) > 0 {
		c.Ports = nil
		for _, name := range slices.Sorted(maps.Keys(j.Ports)) {
			c.Ports = append(c.Ports, plan.Port{Name: name, Number: j.Ports[name]})
		}
	}
	c.Argv, c.Dir = nil, j.Dir // the user's shell has expanded what there is to expand
	t.Containers = []plan.Container{c}
	return &t
}

// Stop ends the workload in good order and returns when it is gone.
func (j *Joined) Stop() {
	j.pod.stop()
	<-j.pod.done
}

// Process is the program, or nil when it does not run.
func (j *Joined) Process() supervise.Process {
	p := j.pod
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range p.programs {
		return g.process
	}
	return nil
}

// Message is what the workload waits for.
func (j *Joined) Message() string { return j.pod.info().Message }

// Result says how the program ended; started is false if it never ran. Call it after Done.
func (j *Joined) Result() (started bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.began, j.err
}

func (j *Joined) command(g *program) Command {
	return Command{Argv: j.join.Argv, Env: slices.Concat(j.join.Environ, g.Env, j.join.Env), Dir: j.join.Dir, Stdio: j.join.Stdio, TTY: j.join.TTY}
}

func (j *Joined) ready() { j.once.Do(func() { close(j.Ready) }) }

func (j *Joined) ended(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.began, j.err = true, err
}
