package pod

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/local/plan"
)

var update = flag.Bool("update", false, "rewrite the transcripts: only commit the changes if you understand what caused them and if they are desired")

// Each transcript is a sentence of intention and commands with what they led to. Times
// count from the command. The commands:
//
//	apply            the plan, a line a Deployment: NAME replicas=N [argv=WORDS] [init=WORDS]
//	                 [ports=N,N] [derived=N] [grace=D] [recreate] [blocked] [gateway]
//	for D            let time pass
//	crash PROCESS    end a process with status 1
//	set WORD         slow, broken, hung or deaf (see fake), or normal
//	join NAME WORDS  a program of the user's; leave NAME
//	list             the workloads
//	shutdown         end the mesh
func TestTranscripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			intention, rest, ok := strings.Cut(string(b), "\n\n")
			if !ok {
				t.Fatal("the transcript does not begin with what is intended")
			}
			dir := t.TempDir()
			var got strings.Builder
			got.WriteString(intention + "\n")
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t, dir)
				for block := range strings.SplitSeq(strings.TrimSpace(rest), "\n\n") {
					command, _, _ := strings.Cut(block+"\n", "\n----\n")
					command = strings.TrimSpace(command)
					fmt.Fprintf(&got, "\n%s\n----\n", command)
					if out := s.do(command); out != "" {
						got.WriteString(out + "\n")
					}
				}
				s.finish()
			})
			if *update {
				if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(b), got.String()); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

type script struct {
	t       *testing.T
	f       *fake
	r       *Runtime
	cancel  context.CancelFunc
	ran     chan error
	joined  map[string]*Joined
	unwatch func()
}

func newScript(t *testing.T, dir string) *script {
	s := &script{t: t, f: &fake{dir: dir, began: time.Now()}, ran: make(chan error, 1), joined: map[string]*Joined{}}
	s.r = s.f.runtime()
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(t.Context())
	watching, unwatch := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.f.watchFiles(watching)
	}()
	s.unwatch = func() {
		unwatch()
		<-watched
	}
	go func() { s.ran <- s.r.Run(ctx) }()
	synctest.Wait()
	return s
}

func (s *script) finish() {
	s.cancel()
	s.unwatch()
	if err := <-s.ran; err != nil {
		s.t.Error(err)
	}
	if left := s.r.List(); len(left) > 0 {
		s.t.Errorf("left: %v", left)
	}
	if files, _ := filepath.Glob(filepath.Join(s.f.dir, "*")); len(files) > 0 {
		s.t.Errorf("files left: %v", files)
	}
}

func (s *script) do(command string) string {
	s.f.take()
	line, body, _ := strings.Cut(command, "\n")
	words := strings.Fields(line)
	switch words[0] {
	case "apply":
		s.r.Apply(parsePlan(s.t, body))
		synctest.Wait()
		time.Sleep(time.Microsecond) // and not a whole step of the file watcher
	case "for":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			s.t.Fatal(err)
		}
		time.Sleep(d)
		synctest.Wait()
	case "crash":
		if !s.f.crash(strings.Join(words[1:], " "), errors.New("exit status 1")) {
			s.t.Errorf("%s: there is no such process", command)
		}
		synctest.Wait()
	case "set":
		s.f.mu.Lock()
		s.f.slow, s.f.broken, s.f.hung, s.f.deaf = words[1] == "slow", words[1] == "broken", words[1] == "hung", words[1] == "deaf"
		s.f.mu.Unlock()
	case "join":
		j, err := s.r.Join(Join{Name: words[1], Argv: words[2:], Ports: map[string]uint16{"http": 8080}})
		if err != nil {
			return err.Error()
		}
		s.joined[words[1]] = j
		synctest.Wait()
	case "leave":
		j := s.joined[words[1]]
		go j.Stop()
		<-j.Done
		started, err := j.Result()
		synctest.Wait()
		s.f.log("%s: started %v, ended %v", words[1], started, err)
	case "list":
		var out []string
		for _, i := range s.r.List() {
			out = append(out, fmt.Sprintf("%s/%s of %q as %s: %s, ready %v, %d restarts, %q", i.Namespace, i.Name, i.Owner, i.ServiceAccount, i.Phase, i.Ready, i.Restarts, i.Message))
		}
		return strings.Join(out, "\n")
	case "shutdown":
		s.cancel()
		s.ran <- <-s.ran
		synctest.Wait()
		s.f.log("Run returned")
	default:
		s.t.Fatalf("unknown command %q", command)
	}
	return s.f.take()
}

func parsePlan(t *testing.T, body string) *plan.Plan {
	p := &plan.Plan{}
	for line := range strings.Lines(body) {
		words := strings.Fields(line)
		g := &plan.Group{Namespace: "default", Name: words[0], Replicas: 1, Surge: 1, Hash: line}
		g.Template = plan.Template{Namespace: "default", Owner: words[0], ServiceAccount: "sa", Labels: map[string]string{"app": words[0]}, Grace: 5 * time.Second}
		c := plan.Container{Name: words[0], Argv: []string{words[0]}, Ports: []plan.Port{{Number: 9080}}}
		for _, w := range words[1:] {
			key, value, _ := strings.Cut(w, "=")
			switch key {
			case "replicas":
				n, err := strconv.Atoi(value)
				if err != nil {
					t.Fatal(err)
				}
				g.Replicas = n
				g.Hash = strings.ReplaceAll(g.Hash, w, "")
			case "argv":
				c.Argv = strings.Split(value, ",")
			case "init":
				g.Template.Init = append(g.Template.Init, plan.Container{Name: "init", Argv: strings.Split(value, ",")})
			case "ports":
				c.Ports = nil
				for n := range strings.SplitSeq(value, ",") {
					if n == "none" {
						continue
					}
					number, err := strconv.Atoi(n)
					if err != nil {
						t.Fatal(err)
					}
					c.Ports = append(c.Ports, plan.Port{Number: uint16(number)})
				}
			case "derived":
				number, err := strconv.Atoi(value)
				if err != nil {
					t.Fatal(err)
				}
				c.Ports = append(c.Ports, plan.Port{Number: uint16(number), Derived: true})
			case "grace":
				d, err := time.ParseDuration(value)
				if err != nil {
					t.Fatal(err)
				}
				g.Template.Grace = d
			case "recreate":
				g.Recreate = true
			case "blocked":
				g.Blocked = "it cannot be run"
			case "gateway":
				g.Template.Gateway = true
			default:
				t.Fatalf("unknown word %q", w)
			}
		}
		if !g.Template.Gateway {
			g.Template.Containers = []plan.Container{c}
		}
		p.Groups = append(p.Groups, g)
	}
	return p
}

// Who asks for somebody who is not there is told in a sentence who is.
func TestWhoRuns(t *testing.T) {
	many := make([]string, 12)
	for i := range many {
		many[i] = string(rune('a' + i))
	}
	for want, names := range map[string][]string{
		"no workload runs": nil,
		"only a-0 runs":    {"a-0"},
		"a-0 and b-0 run":  {"a-0", "b-0"},
		"a, b and c run":   {"a", "b", "c"},
		"a, b, c, d, e, f, g, h, i, j and 2 others run; `weir status` lists them": many,
	} {
		if got := running(names); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
