package edges

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/internal/backoff"
	"github.com/weirmesh/weir/proxy/observe"
)

// Token in the identifier of a control plane says that it serves the stream.
const Token = "weir-observe/1"

// Announced reports whether identifier, the control_plane.identifier of xDS responses, has
// the token.
func Announced(identifier string) bool {
	return slices.Contains(strings.Fields(identifier), Token)
}

const (
	// interval is how often changes are reported.
	interval = 5 * time.Second
	// patience is how long an acknowledgement may take; then the stream is of no use.
	patience = 30 * time.Second
	// spacing is how soon a report that is asked for follows another: a control plane takes no more than one every 100 ms.
	spacing = 200 * time.Millisecond
	// mostDue are the reports that may be asked for at a time.
	mostDue = 100
)

// Options of Run. All are required.
type Options struct {
	Hello *observev1.Hello // without Epoch
	// Connect waits for a control plane that announced the stream and returns the
	// connection to it, which is not closed here.
	Connect func(context.Context) (grpc.ClientConnInterface, error)
	// Collect returns the counters of all workers as they are now.
	Collect func() *observe.Totals
	// Records answers who asks what became of requests.
	Records func(*observev1.RecordsRequest) *observev1.Records
	// Limits answers who asks for the limits of calls.
	Limits func(*observev1.LimitsRequest) *observev1.Limits
	// Level answers who asks for the level of the log, and changes it.
	Level func(*observev1.LogLevelRequest) *observev1.LogLevel
	// Aside are changes of who is set aside since it was called last.
	Aside func() []*observev1.Ejection
	// Certificate is the one held, nil if none is, and what is closed when there is another; nil: there will be none.
	Certificate func() (*observev1.Certificate, <-chan struct{})
	// Condition is what it knows of its identity, and what is closed when that may have changed; nil: it does not.
	Condition func() (*observev1.Condition, <-chan struct{})
	// Files are those of certificates in use, and what is closed when they are others; nil: there are none.
	Files func() ([]*observev1.CertificateFile, <-chan struct{})
	// Tap begins and ends taps, nil ends all; Tapped has what they catch.
	Tap    func(*observev1.TapRequest)
	Tapped <-chan func() *observev1.Tapped
	// Stirred holds a value when any of them may have changed since the last Collect.
	Stirred <-chan struct{}
	Log     *slog.Logger
}

// Stats of a Sender.
type Stats struct {
	// Reports and Streams count reports that were acknowledged and streams that were opened.
	Reports, Streams atomic.Uint64
}

// Sender sends reports.
type Sender struct {
	o     Options
	hello *observev1.ProxyMessage
	r     Reporter
	crowd crowd
	Stats Stats
}

// NewSender makes a Sender. It does nothing before Run.
func NewSender(o Options) *Sender {
	h := &observev1.Hello{NodeId: o.Hello.GetNodeId(), Workload: o.Hello.GetWorkload(), Epoch: rand.Uint64()}
	return &Sender{o: o, hello: &observev1.ProxyMessage{Message: &observev1.ProxyMessage_Hello{Hello: h}}}
}

// Run sends reports until ctx ends.
func (s *Sender) Run(ctx context.Context) error {
	wait := backoff.Backoff{Min: time.Second, Max: time.Minute}
	for {
		conn, err := s.o.Connect(ctx)
		if err == nil {
			began := time.Now()
			if err = s.stream(ctx, conn); time.Since(began) > time.Minute {
				wait.Reset()
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		s.o.Log.Debug("observe stream ended", "err", err)
		if wait.Wait(ctx) != nil {
			return nil
		}
	}
}

var errNoAck = errors.New("a report was not acknowledged")

// stream opens one and reports on it until it ends.
func (s *Sender) stream(ctx context.Context, conn grpc.ClientConnInterface) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := observev1.NewObserveClient(conn).Observe(ctx)
	if err != nil {
		return fmt.Errorf("opening the stream: %w", err)
	}
	s.Stats.Streams.Add(1)
	defer s.o.Tap(nil)
	if err := stream.Send(s.hello); err != nil {
		return err
	}
	var renewed, replaced <-chan struct{}
	certificate := func() error {
		var c *observev1.Certificate
		if c, renewed = s.o.Certificate(); c == nil {
			return nil
		}
		if s.o.Files != nil {
			c.Files, replaced = s.o.Files()
		}
		return stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Certificate{Certificate: c}})
	}
	if err := certificate(); err != nil {
		return err
	}
	told := &observev1.Condition{}
	var noted <-chan struct{}
	condition := func() error {
		var c *observev1.Condition
		c, noted = s.o.Condition()
		if c = s.crowd.tell(c); proto.Equal(c, told) {
			return nil
		}
		told = proto.CloneOf(c)
		c.TimeUnixNano = uint64(time.Now().UnixNano())
		return stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Condition{Condition: c}})
	}
	if err := condition(); err != nil {
		return err
	}
	heard := make(chan *observev1.ControlMessage)
	ended := make(chan error, 1)
	go func() { // ends with the stream, which ends with this function
		for {
			m, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case heard <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	var sent time.Time // of what is pending
	report := func(r *observev1.Report) error {
		sent = time.Now()
		return stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Report{Report: r}})
	}
	if r := s.r.Pending(); r != nil {
		if err := report(r); err != nil {
			return err
		}
	}
	// Proxies that came back together do not report together.
	tick := time.NewTimer(rand.N(interval))
	defer tick.Stop()
	var due []uint64 // who asked for a report, and is answered after it
	soon := func() { tick.Reset(max(0, spacing-time.Since(sent))) }
	var stirred <-chan struct{} // waited for while there is nothing to do: an idle proxy sleeps
	for {
		select {
		case err := <-ended:
			return err
		case m := <-heard:
			if a := m.GetAck(); a != nil && s.r.Pending().GetSequence() == a.GetSequence() {
				s.r.Acked(a.GetSequence())
				s.Stats.Reports.Add(1)
				if len(due) > 0 {
					soon()
				}
			}
			if q := m.GetRecords(); q != nil {
				if err := stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Records{Records: s.o.Records(q)}}); err != nil {
					return err
				}
			}
			if q := m.GetLimits(); q.GetReport() {
				if due = append(due, q.GetRequest()); len(due) > mostDue {
					due = due[1:]
				}
				stirred = nil
				soon()
			} else if q != nil {
				if err := stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Limits{Limits: s.o.Limits(q)}}); err != nil {
					return err
				}
			}
			if q := m.GetLogLevel(); q != nil {
				if err := stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_LogLevel{LogLevel: s.o.Level(q)}}); err != nil {
					return err
				}
			}
			if q := m.GetTap(); q != nil {
				s.o.Tap(q)
			}
		case t := <-s.o.Tapped:
			if err := stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Tapped{Tapped: t()}}); err != nil {
				return err
			}
		case <-renewed:
			if err := certificate(); err != nil {
				return err
			}
		case <-replaced:
			if err := certificate(); err != nil {
				return err
			}
		case <-noted: // attempts that fail follow one another quickly
			if noted = nil; stirred != nil {
				tick.Reset(interval)
			}
		case <-stirred:
			stirred = nil
			tick.Reset(interval)
		case <-tick.C:
			idle := false
			if s.r.Pending() == nil {
				t := s.o.Collect()
				s.crowd.note(t, time.Now())
				r := s.r.Next(t, s.o.Aside()...)
				if idle = r == nil; !idle {
					if err := report(r); err != nil {
						return err
					}
				}
				if len(r.GetEdges()) < maxReport { // else there may be more
					for _, n := range due {
						if err := stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Limits{Limits: &observev1.Limits{Request: n, Reported: true}}}); err != nil {
							return err
						}
					}
					due = nil
				}
			} else if time.Since(sent) > patience {
				return errNoAck
			}
			if err := condition(); err != nil {
				return err
			}
			if idle {
				stirred = s.o.Stirred
				continue
			}
			tick.Reset(interval)
		}
	}
}
