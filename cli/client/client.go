// Package client speaks the HTTP API of a control plane (package api/v1), and finds the
// control plane of a laptop mesh by its state folder.
//
// The command line and the runtime behind `weir up` call it. A Client is safe for
// concurrent use; every call ends with its context, and after 10 s unless it waits for
// something by its nature. What the control plane refuses comes back as *Error.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/internal/redact"
)

const (
	dialTimeout = 2 * time.Second
	// callTimeout covers reading the configuration of a large mesh on a busy machine.
	callTimeout = 10 * time.Second
	// changeTime is what a byte of a change may take beside: objects of 1 KB, each a file,
	// are written in 5 ms on a slow disk.
	changeTime = 5 * time.Microsecond
	// waitMargin is added to a wait's own timeout, so that the answer says what is
	// missing rather than nothing.
	waitMargin = 2 * time.Second
	// maxAnswer is twice the 64 MiB that may be applied at once.
	maxAnswer = 128 << 20
	// noNamespace stands for the namespace of objects that have none in a path.
	noNamespace = "-"
)

// Client is one control plane's.
type Client struct {
	address string
	token   redact.String
	http    http.Client
}

// New makes a client of the API at address (host:port). Reads need no token.
func New(address string, token redact.String) *Client {
	return NewVia((&net.Dialer{Timeout: dialTimeout}).DialContext, address, token)
}

// NewVia makes a client whose connections dial opens: in a network namespace the host's
// addresses are reached by other means.
func NewVia(dial func(ctx context.Context, network, address string) (net.Conn, error), address string, token redact.String) *Client {
	return &Client{address: address, token: token, http: http.Client{Transport: &http.Transport{DialContext: dial, IdleConnTimeout: time.Minute}}}
}

// Address is where the API is.
func (c *Client) Address() string { return c.address }

// Error is an answer that is not a success.
type Error struct {
	Status  int // HTTP status
	Message string
	Hint    string
}

func (e *Error) Error() string { return e.Message }

// Status asks for everything `weir status` shows.
func (c *Client) Status(ctx context.Context) (*apiv1.Status, error) {
	return get[*apiv1.Status](ctx, c, "/api/v1/status")
}

// Identity asks who signs certificates, what is trusted, and what breaks first.
func (c *Client) Identity(ctx context.Context) (*apiv1.Identity, error) {
	return get[*apiv1.Identity](ctx, c, "/api/v1/identity")
}

// Token mints a token for a machine.
func (c *Client) Token(ctx context.Context, q apiv1.TokenRequest) (*apiv1.Token, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	data, err := c.call(ctx, http.MethodPost, "/api/v1/identity/token", body)
	if err != nil {
		return nil, err
	}
	var t apiv1.Token
	return &t, c.decode(data, &t)
}

// Rehearsal asks what becomes of identities in years to come, with nobody to sign for a part of
// the time.
func (c *Client) Rehearsal(ctx context.Context, years, away float64) (*apiv1.Rehearsal, error) {
	return get[*apiv1.Rehearsal](ctx, c, fmt.Sprintf("/api/v1/identity/rehearsal?years=%g&away=%g", years, away))
}

// MTLS asks what ports of workloads accept and who calls them in plaintext; namespace and workload may
// be empty. now: proxies report first what they have seen until it was asked, else they have every few seconds.
func (c *Client) MTLS(ctx context.Context, namespace, workload string, window time.Duration, now bool) (*apiv1.MTLS, error) {
	return get[*apiv1.MTLS](ctx, c, "/api/v1/mtls?"+url.Values{"namespace": {namespace}, "workload": {workload}, "window": {window.String()}, "now": {strconv.FormatBool(now)}}.Encode())
}

// Edges asks who called whom within a time; namespace and workload, of either end, may be empty.
func (c *Client) Edges(ctx context.Context, namespace, workload string, since time.Duration) (*apiv1.Edges, error) {
	return get[*apiv1.Edges](ctx, c, "/api/v1/edges?"+url.Values{"namespace": {namespace}, "workload": {workload}, "since": {since.String()}}.Encode())
}

// Why asks what became of a request (id), or of the last that failed: of calls to service, or from one workload to another. All may be
// empty; last is how many stories.
func (c *Client) Why(ctx context.Context, id, service, from, to string, last int) (*apiv1.Why, error) {
	return get[*apiv1.Why](ctx, c, "/api/v1/why?"+url.Values{"id": {id}, "service": {service}, "from": {from}, "to": {to}, "last": {strconv.Itoa(last)}}.Encode())
}

// Limits asks for the limits that calls to a service meet, by its name or host name.
func (c *Client) Limits(ctx context.Context, service, namespace string) (*apiv1.Limits, error) {
	return get[*apiv1.Limits](ctx, c, "/api/v1/limits?"+url.Values{"service": {service}, "namespace": {namespace}}.Encode())
}

// Ejections asks which endpoints proxies have set aside, of a service or, if that is "", of all.
func (c *Client) Ejections(ctx context.Context, service, namespace string) (*apiv1.Ejections, error) {
	return get[*apiv1.Ejections](ctx, c, "/api/v1/ejections?"+url.Values{"service": {service}, "namespace": {namespace}}.Encode())
}

// Tap shows requests as they end, until ctx does, show fails or the control plane stops. filters are the parameters of the API.
func (c *Client) Tap(ctx context.Context, filters url.Values, show func(*apiv1.Tapped) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.address+"/api/v1/tap?"+filters.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.away(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		data, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		return failure(resp.StatusCode, data)
	}
	for lines := json.NewDecoder(resp.Body); ; {
		var t apiv1.Tapped
		err := lines.Decode(&t)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("the control plane has ended the tap")
		case err != nil:
			return fmt.Errorf("the control plane has ended the tap: %w", err)
		}
		if err := show(&t); err != nil {
			return err
		}
	}
}

// away says why there was no answer. What wraps the cause repeats method and address.
func (c *Client) away(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		err = e
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the control plane at %s does not answer in time", c.address)
	}
	return fmt.Errorf("the control plane at %s does not answer: %w", c.address, err)
}

// Get asks for a path of the API, which may have a query, and returns the answer as it came.
func (c *Client) Get(ctx context.Context, path string) ([]byte, error) {
	return c.call(ctx, http.MethodGet, path, nil)
}

// Workloads asks for what is running.
func (c *Client) Workloads(ctx context.Context) ([]apiv1.Workload, error) {
	return get[[]apiv1.Workload](ctx, c, "/api/v1/workloads")
}

// Services asks for services and their endpoints.
func (c *Client) Services(ctx context.Context) ([]apiv1.Service, error) {
	return get[[]apiv1.Service](ctx, c, "/api/v1/services")
}

// Proxies asks for the connected proxies, of all control planes of the mesh; silent are those that did not
// answer for theirs.
func (c *Client) Proxies(ctx context.Context) (all []apiv1.ProxyStatus, silent []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	data, header, err := c.ask(ctx, http.MethodGet, "/api/v1/proxies", nil)
	if err != nil {
		return nil, nil, err
	}
	err = c.decode(data, &all)
	return all, header.Values(apiv1.SilentHeader), err
}

// LogLevel asks what level the logs of a workload's proxies have, and changes it if level is none of "" or reset is true:
// for so long, or, if that is 0, for good.
func (c *Client) LogLevel(ctx context.Context, namespace, workload, level string, lasts time.Duration, reset bool) (*apiv1.LogLevels, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	q, method := url.Values{"workload": {namespace + "/" + workload}}, http.MethodGet
	switch {
	case reset:
		method = http.MethodPost
		q.Set("reset", "")
	case level != "":
		method = http.MethodPost
		if q.Set("level", level); lasts > 0 {
			q.Set("for", lasts.String())
		}
	}
	data, err := c.call(ctx, method, "/api/v1/log-level?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	var out apiv1.LogLevels
	return &out, c.decode(data, &out)
}

// ProxyConfig asks for what a proxy (namespace/name) is sent, load assignments included:
// a dump as package xds/dump reads it.
func (c *Client) ProxyConfig(ctx context.Context, proxy string) ([]byte, error) {
	namespace, name, _ := strings.Cut(proxy, "/")
	return c.call(ctx, http.MethodGet, "/api/v1/proxies/"+url.PathEscape(namespace)+"/"+url.PathEscape(name)+"/config?include_eds", nil)
}

// WorkloadConfig asks for what a sidecar of a workload would be sent, whatever it asked for; names is a
// regular expression of those wanted, "" for all.
func (c *Client) WorkloadConfig(ctx context.Context, namespace, name, names string) ([]byte, error) {
	return c.call(ctx, http.MethodGet, "/api/v1/workloads/"+url.PathEscape(namespace)+"/"+url.PathEscape(name)+"/config?"+url.Values{"name_regex": {names}}.Encode(), nil)
}

// Objects asks for objects with their receipts; empty arguments from the right on ask
// for all there are. A name without a namespace is that of an object that has none. An
// object that is named and missing is an *Error with status 404.
func (c *Client) Objects(ctx context.Context, kind, namespace, name string) ([]apiv1.Object, error) {
	return get[[]apiv1.Object](ctx, c, objectPath(kind, namespace, name))
}

// Receipt asks what became of one object. A name without a namespace is that of an object
// that has none.
func (c *Client) Receipt(ctx context.Context, kind, namespace, name string) (*apiv1.Receipt, error) {
	return get[*apiv1.Receipt](ctx, c, "/api/v1/receipts"+strings.TrimPrefix(objectPath(kind, namespace, name), "/api/v1/objects"))
}

// Receipts asks what became of objects, once all of them are active on every connected
// proxy that needs them, or after a timeout; absent waits for proxies that are not
// connected, too. It takes the token.
func (c *Client) Receipts(ctx context.Context, objects []apiv1.ObjectName, timeout time.Duration, absent bool) ([]apiv1.Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+timeout)
	defer cancel()
	query, err := json.Marshal(apiv1.ReceiptQuery{Objects: objects, Timeout: timeout.String(), Absent: absent})
	if err != nil {
		return nil, err
	}
	data, err := c.call(ctx, http.MethodPost, "/api/v1/receipts", query)
	if err != nil {
		return nil, err
	}
	var out []apiv1.Receipt
	return out, c.decode(data, &out)
}

// Events asks what happened to objects behind after, the Next of an earlier answer. Without
// any it waits up to timeout for one. Empty kind, namespace and name mean any.
func (c *Client) Events(ctx context.Context, after uint64, timeout time.Duration, kind, namespace, name string) (*apiv1.Events, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+timeout)
	defer cancel()
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "timeout": {timeout.String()}, "kind": {kind}, "namespace": {namespace}, "name": {name}}
	data, err := c.call(ctx, http.MethodGet, "/api/v1/events?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	var out apiv1.Events
	return &out, c.decode(data, &out)
}

// raw asks for objects as they were written. Secrets are among them: it takes the token.
const raw = "?raw"

// Raw is Objects as YAML, as it was written.
func (c *Client) Raw(ctx context.Context, kind, namespace, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.call(ctx, http.MethodGet, objectPath(kind, namespace, name)+raw, nil)
}

// Apply sends YAML documents. Documents that were refused are no error of the call: the
// result says so.
func (c *Client) Apply(ctx context.Context, documents []byte, dryRun bool) (*apiv1.ApplyResult, error) {
	path := "/api/v1/objects"
	if dryRun {
		path += "?dry-run=true"
	}
	return c.change(ctx, http.MethodPost, path, documents)
}

// Delete removes an object that was applied.
func (c *Client) Delete(ctx context.Context, kind, namespace, name string) (*apiv1.ApplyResult, error) {
	return c.change(ctx, http.MethodDelete, objectPath(kind, namespace, name), nil)
}

// WaitActive returns when every connected proxy is on a version of the configuration or
// a newer one; after timeout with an *Error of status 504 that says which are not.
func (c *Client) WaitActive(ctx context.Context, version uint64, timeout time.Duration) error {
	return c.wait(ctx, url.Values{"version": {strconv.FormatUint(version, 10)}}, timeout)
}

// WaitWorkload is WaitActive for the first version in which a workload has a health:
// healthy, unhealthy, draining or gone.
func (c *Client) WaitWorkload(ctx context.Context, namespace, name, health string, timeout time.Duration) error {
	return c.wait(ctx, url.Values{"workload": {namespace + "/" + name}, "health": {health}}, timeout)
}

func (c *Client) wait(ctx context.Context, q url.Values, timeout time.Duration) error {
	q.Set("timeout", timeout.String())
	ctx, cancel := context.WithTimeout(ctx, timeout+waitMargin)
	defer cancel()
	_, err := c.call(ctx, http.MethodGet, "/api/v1/wait?"+q.Encode(), nil)
	return err
}

func objectPath(kind, namespace, name string) string {
	if namespace == "" && name != "" {
		namespace = noNamespace
	}
	path := []string{"/api/v1/objects"}
	for _, p := range []string{kind, namespace, name} {
		if p == "" {
			break
		}
		path = append(path, url.PathEscape(p))
	}
	return strings.Join(path, "/")
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var v T
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	data, err := c.call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return v, err
	}
	return v, c.decode(data, &v)
}

func (c *Client) change(ctx context.Context, method, path string, body []byte) (*apiv1.ApplyResult, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+time.Duration(len(body))*changeTime)
	defer cancel()
	data, err := c.call(ctx, method, path, body)
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusUnprocessableEntity {
		err = nil // the answer has the details
	}
	if err != nil {
		return nil, err
	}
	var r apiv1.ApplyResult
	return &r, c.decode(data, &r)
}

// call returns the body of the answer, also beside an *Error.
func (c *Client) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	data, _, err := c.ask(ctx, method, path, body)
	return data, err
}

// ask is call with the header of the answer.
func (c *Client) ask(ctx context.Context, method, path string, body []byte) ([]byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.address+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/yaml")
	}
	if (method != http.MethodGet || strings.HasSuffix(path, raw) || strings.Contains(path, "/config?")) && !c.token.IsZero() {
		req.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, c.away(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("reading the control plane's answer: %w", err)
	case len(data) > maxAnswer:
		return nil, nil, fmt.Errorf("the control plane's answer has more than %d MiB", maxAnswer>>20)
	case resp.StatusCode != http.StatusOK:
		return data, resp.Header, failure(resp.StatusCode, data)
	}
	return data, resp.Header, nil
}

func (c *Client) decode(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s does not answer like a control plane: %w", c.address, err)
	}
	return nil
}

func failure(status int, body []byte) *Error {
	var e apiv1.Error
	if json.Unmarshal(body, &e) != nil || e.Error == "" {
		const shown = 200
		text := strings.TrimSpace(string(body[:min(len(body), shown)]))
		e.Error = strings.TrimSuffix(fmt.Sprintf("the control plane answers %d %s: %s", status, http.StatusText(status), text), ": ")
	}
	return &Error{status, e.Error, e.Hint}
}
