package scripts

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/sample/echo"
	"github.com/weirmesh/weir/test/mesh"
)

// stage is a mesh with the cast.
type stage struct {
	*mesh.Mesh
	cast  map[string]*mesh.Workload
	vault *vault
	certs string // the folder of the vault's files
	calls int
}

func newStage(t *testing.T) *stage {
	s := &stage{Mesh: mesh.New(t, nil), cast: map[string]*mesh.Workload{}, vault: newVault(t), certs: t.TempDir()}
	s.vault.write(t, s.certs)
	s.Config("cast.yaml", services)
	for _, w := range s.Workloads(cast()...) {
		s.cast[w.Name] = w
	}
	for name, who := range outside {
		s.Resolve(name, s.cast[who].IP())
	}
	serveGRPC(t, "calc", s.cast["calc"].App(7070).String())
	serveTLS(t, "web-1", netip.AddrPortFrom(s.cast["web-1"].IP(), secure).String(), s.vault)
	return s
}

// address of a member of the cast.
func (s *stage) address(name string) string {
	if w := s.cast[name]; w != nil {
		return w.IP().String()
	}
	return name
}

// set puts the objects of a round in force.
func (s *stage) set(r *round) {
	s.T.Helper()
	s.Config("script.yaml", s.vault.fill(r.objects, s.certs, s.address))
	s.Eventually("findings are those of the script", func() error { // about objects together they come a moment later
		unlisted, left := compared(r.findings, s.Findings())
		if len(unlisted)+len(left) > 0 {
			return fmt.Errorf("findings that the script does not list: %q; that it lists and nobody makes: %q", unlisted, left)
		}
		return nil
	})
}

// compared are findings that are not listed, and those listed that there are not.
func compared(listed []string, found []apiv1.Finding) (unlisted, left []string) {
	left = slices.Clone(listed)
	for _, f := range found {
		if f.Severity != "error" && f.Severity != "warning" {
			continue
		}
		text := fmt.Sprintf("%s %s %s/%s %s %s", f.Code, f.Kind, f.Namespace, f.Name, f.Field, f.Message)
		i := slices.IndexFunc(left, func(want string) bool {
			head, words, _ := strings.Cut(want, ": ")
			for _, w := range append(strings.Fields(head), strings.Fields(words)...) {
				if !strings.Contains(text, w) {
					return false
				}
			}
			return true
		})
		if i < 0 {
			unlisted = append(unlisted, text)
			continue
		}
		left = slices.Delete(left, i, i+1)
	}
	return unlisted, left
}

// line is what the caller's proxy logged of a call.
type line struct{ status, flags, details, upstream, cluster, route string }

// readLine reads Istio's default format (features of MeshConfig.accessLogFormat).
func readLine(text string) (line, error) {
	quoted := strings.Split(text, `"`)
	if len(quoted) < 5 {
		return line{}, fmt.Errorf("not an access log line: %q", text)
	}
	after := strings.Fields(quoted[2])
	tail := strings.Fields(quoted[len(quoted)-1])
	if len(after) < 3 || len(tail) != 6 {
		return line{}, fmt.Errorf("not an access log line: %q", text)
	}
	dash := func(s string) string {
		if s == "-" {
			return ""
		}
		return s
	}
	return line{dash(after[0]), dash(after[1]), dash(after[2]), dash(quoted[len(quoted)-2]), dash(tail[0]), dash(tail[5])}, nil
}

// run makes a call as often as it says and holds what comes of it against what is wanted.
func (s *stage) run(c *call) error {
	s.calls++
	id := fmt.Sprintf("call-%d", s.calls)
	host, port, _ := strings.Cut(c.target, ":")
	caller := s.cast[c.from]
	if c.from == "outside" {
		caller = s.cast[host]
	}
	if caller == nil {
		return fmt.Errorf("there is nobody called %q", c.from)
	}
	d := dialer{s, c, caller, s.address(strings.TrimPrefix(host, "@")) + ":" + port}
	if c.kind == "tcp" || c.kind == "tls" {
		return s.bytes(c, &d)
	}
	client, own := d.client()
	if own {
		defer client.CloseIdleConnections()
	}
	authority := c.host
	if strings.HasPrefix(authority, "@") {
		authority = d.at
	}
	all := make([]observed, c.times)
	for i := range all {
		headers := []string{"user-agent: " + id + "-" + strconv.Itoa(i) + ".", "host: " + authority}
		for _, h := range c.headers {
			headers = append(headers, h[0]+": "+h[1])
		}
		scheme := "http://"
		if c.kind == "https" {
			scheme = "https://"
		}
		answer := mesh.Do(client, c.method, scheme+d.at+c.path, nil, headers...)
		all[i] = observed{share: 1 / float64(c.times), status: answer.Status, words: map[string]string{}, response: map[string]string{}, request: map[string]string{}, took: answer.Took}
		o := &all[i]
		if o.refused = answer.Err != nil && c.kind == "https"; o.refused {
			continue
		}
		if answer.Err != nil {
			return answer.Err
		}
		for k, v := range answer.Header {
			o.response[strings.ToLower(k)] = strings.Join(v, ",")
		}
		for _, word := range []string{"sni", "client", "shown"} {
			o.words[word] = o.response["x-seen-"+word]
		}
		if o.words["grpc"] = answer.Trailer.Get("grpc-status"); o.words["grpc"] == "" {
			o.words["grpc"] = o.response["grpc-status"]
		}
		body := answer.Body
		if c.kind == "grpc" && len(body) > 5 { // what stands before a message
			body = body[5:]
		}
		if pod := o.response["x-seen-pod"]; pod != "" {
			o.pods = []string{pod}
		}
		var report echo.Report
		if json.Unmarshal(body, &report) != nil || report.Hostname == "" {
			o.words["body"] = string(answer.Body)
			continue
		}
		o.pods = []string{report.Hostname}
		o.words["path"], o.words["host"], o.words["peer"] = report.Target, report.Host, report.Identity
		for _, f := range report.Headers {
			k := strings.ToLower(f.Name)
			if was, ok := o.request[k]; ok {
				f.Value = was + "," + f.Value
			}
			o.request[k] = f.Value
		}
	}
	if refused := slices.ContainsFunc(all, func(o observed) bool { return o.refused }); !refused {
		if err := s.logged(all, caller, id); err != nil {
			return err
		}
	}
	waits := slices.ContainsFunc(c.want, func(w outcome) bool { return w.mirrored != "" || w.words["attempts"] != "" })
	judge := func() error {
		s.arrivals(all, id)
		if why := c.judge(all, c.times); why != "" {
			return errors.New(why)
		}
		return nil
	}
	if !waits {
		return judge()
	}
	for i := range all { // what is wrong already does not get better by waiting for copies
		all[i].early = true
	}
	if why := c.judge(all, c.times); why != "" {
		return errors.New(why)
	}
	for i := range all {
		all[i].early = false
	}
	return s.Await(judge)
}

// marks are the access log lines of calls, by the number in their user-agent.
func marks(w *mesh.Workload, id string) map[int][]string {
	out := map[int][]string{}
	for _, text := range w.LoggedWith(`"` + id + "-") {
		_, rest, _ := strings.Cut(text, `"`+id+"-")
		number, _, _ := strings.Cut(rest, ".")
		if n, err := strconv.Atoi(number); err == nil {
			out[n] = append(out[n], text)
		}
	}
	return out
}

// logged adds what the caller's proxy logged.
func (s *stage) logged(all []observed, logger *mesh.Workload, id string) error {
	var lines map[int][]string
	if err := s.Await(func() error {
		if lines = marks(logger, id); len(lines) < len(all) {
			return fmt.Errorf("%s has logged %d of %d calls", logger.Name, len(lines), len(all))
		}
		return nil
	}); err != nil {
		return err
	}
	for i := range all {
		l, err := readLine(lines[i][0])
		if err != nil {
			return err
		}
		all[i].flags = l.flags
		all[i].words["route"], all[i].words["cluster"], all[i].words["details"] = l.route, l.cluster, l.details
	}
	return nil
}

// arrivals adds which requests and copies reached pods.
func (s *stage) arrivals(all []observed, id string) {
	attempts := make([]int, len(all))
	for i := range all {
		all[i].mirrored = nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.cast)) {
		if s.cast[name].Ports == nil || s.cast[name].NoProxy {
			continue
		}
		for i, lines := range marks(s.cast[name], id) {
			for _, l := range lines {
				if strings.Contains(l, "-shadow") {
					all[i].mirrored = append(all[i].mirrored, name)
				} else {
					attempts[i]++
				}
			}
		}
	}
	for i := range all {
		all[i].words["attempts"] = strconv.Itoa(attempts[i])
	}
}

// bytes makes calls that are not HTTP.
func (s *stage) bytes(c *call, d *dialer) error {
	before := len(d.w.LoggedWith("- - -"))
	pods := map[string]string{}
	for name, w := range s.cast {
		pods[w.IP().String()] = name
	}
	var all []observed
	for range c.times {
		if refused := d.relay(); refused && slices.ContainsFunc(c.want, func(w outcome) bool { return w.refused }) {
			all = append(all, observed{share: 1 / float64(c.times), refused: true})
		}
	}
	if all != nil {
		if why := c.judge(all, c.times); why != "" {
			return errors.New(why)
		}
		return nil
	}
	var lines []string
	if err := s.Await(func() error {
		lines = d.w.LoggedWith("- - -")[before:]
		if len(lines) < c.times {
			return fmt.Errorf("%s has logged %d of %d connections", d.w.Name, len(lines), c.times)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, text := range lines {
		l, err := readLine(text)
		if err != nil {
			return err
		}
		o := observed{share: 1 / float64(len(lines)), flags: l.flags, words: map[string]string{"route": l.route, "cluster": l.cluster, "details": l.details}}
		if addr, _, ok := strings.Cut(l.upstream, ":"); ok && l.flags == "" {
			o.pods = []string{pods[addr]}
		}
		all = append(all, o)
	}
	if why := c.judge(all, c.times); why != "" {
		return errors.New(why)
	}
	return nil
}
