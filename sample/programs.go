package sample

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/sample/bookinfo"
	"github.com/weirmesh/weir/sample/client"
	"github.com/weirmesh/weir/sample/echo"
	"github.com/weirmesh/weir/sample/health"
	"github.com/weirmesh/weir/sample/helloworld"
	"github.com/weirmesh/weir/sample/httpbin"
	"github.com/weirmesh/weir/sample/server"
	"github.com/weirmesh/weir/sample/websocket"
)

// Programs returns the table, in the order of the help.
func Programs() []Program {
	bookinfoPort := []int{bookinfo.Port}
	return []Program{
		{"bookinfo-productpage", "the book store's web page and JSON API", "", bookinfoPort, productpage},
		{"bookinfo-details", "details of the book, v1 from memory, v2 from Google Books", "--version v1", bookinfoPort, details},
		{"bookinfo-reviews", "reviews of the book, v1 without stars, v2 black, v3 red", "--version v3", bookinfoPort, reviews},
		{"bookinfo-ratings", "stars for the reviews, v1 from memory, v2 with a database", "--version v1", bookinfoPort, ratings},
		{"helloworld", "says its version and host name at /hello", "--version v2", []int{helloworld.Port}, hello},
		{"httpbin", "answers requests in every way HTTP knows", "--port 8000", []int{httpbin.Port}, bin},
		{"tcp-echo", "sends lines back with a prefix", "--port 9000,9001,9002 --prefix one", []int{9000}, tcpEcho},
		{"echo", "reports the request, misbehaves on request; HTTP/1.1 and TCP", "--port 8080,8081 --tcp-port 9000 --version v2", []int{8080}, echoing},
		{"grpc", "answers gRPC's health checks", "--port 50051", []int{50051}, grpc},
		{"client", "calls others at a rate, says what failed; as a Job it ends", "--url http://reviews:9080/reviews/0 --rate 100", nil, calling},
		{"websocket", "says over WebSockets what it is told", "--port 8080", []int{8080}, websockets},
		{"websocket-client", "holds WebSockets open, says which were lost", "--url ws://chat:8080/ --open 1000", nil, holding},
		{"sleep", "does nothing but live, for `weir exec`", "--for 1h", nil, sleep},
	}
}

// version declares --version. The images of the originals carry their version in
// $SERVICE_VERSION.
func version(fs *flag.FlagSet, env Environment, versions string) *string {
	return fs.String("version", cmp.Or(env.Getenv("SERVICE_VERSION"), "v1"), "`version` to be: "+versions)
}

// patience is how long to wait for an answer; 0: as the originals do.
func patience(env Environment) (time.Duration, error) {
	s := env.Getenv("CALL_TIMEOUT")
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("$CALL_TIMEOUT is %q, want a time like 3s", s)
	}
	return d, nil
}

func productpage(_ *flag.FlagSet, env Environment) func() (service, error) {
	return func() (service, error) {
		flood := 0
		if s := env.Getenv("FLOOD_FACTOR"); s != "" {
			n, err := strconv.Atoi(s)
			if err != nil || n < 0 || n > 1000 {
				return nil, fmt.Errorf("$FLOOD_FACTOR is %q, want a number from 0 to 1000", s)
			}
			flood = n
		}
		patience, err := patience(env)
		if err != nil {
			return nil, err
		}
		return web(bookinfo.Productpage(bookinfo.ProductpageOptions{
			Details: backend(env, "details"), Reviews: backend(env, "reviews"), Ratings: backend(env, "ratings"),
			Flood: flood, Patience: patience, Pod: env.Host, Log: env.Log,
		}), env.Log), nil
	}
}

func details(fs *flag.FlagSet, env Environment) func() (service, error) {
	v := version(fs, env, "v1 or v2")
	return func() (service, error) {
		return web(bookinfo.Details(bookinfo.DetailsOptions{
			External:  cmp.Or(env.Getenv("ENABLE_EXTERNAL_BOOK_SERVICE"), strconv.FormatBool(*v == "v2")) == "true",
			PlainText: env.Getenv("DO_NOT_ENCRYPT") == "true",
			Log:       env.Log,
		}), env.Log), nil
	}
}

func reviews(fs *flag.FlagSet, env Environment) func() (service, error) {
	v := version(fs, env, "v1, v2 or v3")
	return func() (service, error) {
		enabled, color := "true", "black"
		switch *v {
		case "v1":
			enabled = "false"
		case "v3":
			color = "red"
		}
		patience, err := patience(env)
		if err != nil {
			return nil, err
		}
		o := bookinfo.ReviewsOptions{
			Version: *v, Ratings: backend(env, "ratings"), Patience: patience,
			Pod: env.Host, Cluster: env.Getenv("CLUSTER_NAME"), Log: env.Log,
		}
		if cmp.Or(env.Getenv("ENABLE_RATINGS"), enabled) == "true" {
			o.Stars = cmp.Or(env.Getenv("STAR_COLOR"), color)
		}
		return web(bookinfo.Reviews(o), env.Log), nil
	}
}

func ratings(fs *flag.FlagSet, env Environment) func() (service, error) {
	v := version(fs, env, "v1, v2, v-faulty, v-delayed, v-unavailable or v-unhealthy")
	return func() (service, error) {
		o := bookinfo.RatingsOptions{Version: *v, Log: env.Log}
		if *v == "v2" {
			var err error
			if o.Database, err = database(env); err != nil {
				return nil, err
			}
		}
		return web(bookinfo.Ratings(o), env.Log), nil
	}
}

// database returns the check of the database that the original's variables name.
func database(env Environment) (func(context.Context) error, error) {
	if env.Getenv("DB_TYPE") == "mysql" {
		return bookinfo.MySQL(net.JoinHostPort(cmp.Or(env.Getenv("MYSQL_DB_HOST"), "mysqldb"), cmp.Or(env.Getenv("MYSQL_DB_PORT"), "3306"))), nil
	}
	mongo := cmp.Or(env.Getenv("MONGO_DB_URL"), "mongodb://mongodb:27017/test")
	u, err := url.Parse(mongo)
	if err != nil || u.Scheme != "mongodb" || u.Hostname() == "" {
		return nil, fmt.Errorf("$MONGO_DB_URL is %q, want mongodb://HOST:PORT/DATABASE", mongo)
	}
	return bookinfo.MongoDB(net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "27017"))), nil
}

func hello(fs *flag.FlagSet, env Environment) func() (service, error) {
	v := version(fs, env, "any text")
	return func() (service, error) {
		return web(helloworld.Handler(*v, env.Host), env.Log), nil
	}
}

func bin(_ *flag.FlagSet, env Environment) func() (service, error) {
	return func() (service, error) {
		return web(httpbin.Handler(env.Host), env.Log), nil
	}
}

// tcpFlags declares what a TCP echo can be told.
func tcpFlags(fs *flag.FlagSet, prefix string) func() echo.TCP {
	o := echo.TCP{Finish: server.FinishTimeout}
	fs.StringVar(&prefix, "prefix", prefix, "TCP: `word` before each line")
	fs.StringVar(&o.Banner, "banner", "", "TCP: `text` to send before anything is received")
	fs.Int64Var(&o.CloseAfter, "close-after", 0, "TCP: `bytes` after which the connection is closed")
	fs.Int64Var(&o.ResetAfter, "reset-after", 0, "TCP: `bytes` after which the connection is reset")
	return func() echo.TCP {
		if prefix != "" {
			o.Prefix = prefix + " "
		}
		return o
	}
}

func tcpEcho(fs *flag.FlagSet, _ Environment) func() (service, error) {
	o := tcpFlags(fs, "hello")
	return func() (service, error) {
		return each(func(ctx context.Context, ln net.Listener) error { return echo.ServeTCP(ctx, ln, o()) }), nil
	}
}

func echoing(fs *flag.FlagSet, env Environment) func() (service, error) {
	v := version(fs, env, "any text")
	o := tcpFlags(fs, "")
	var tcpPorts, tlsPorts []int
	fs.Func("tcp-port", "TCP: `ports` to listen on, comma-separated", func(s string) (err error) {
		tcpPorts, err = parsePorts(s)
		return err
	})
	fs.Func("tls-port", "HTTPS: `ports` to listen on, comma-separated, with a certificate that nobody signed", func(s string) (err error) {
		tlsPorts, err = parsePorts(s)
		return err
	})
	return func() (service, error) {
		return func(ctx context.Context, lns []net.Listener, drain time.Duration) error {
			tcp, err := listen(ctx, env, "echo", tcpPorts)
			if err != nil {
				return err
			}
			secure, err := listen(ctx, env, "echo", tlsPorts)
			if err == nil && len(secure) > 0 {
				err = server.Secure(secure, env.Host)
			}
			if err != nil {
				return err
			}
			return each(func(ctx context.Context, ln net.Listener) error {
				if slices.Contains(tcp, ln) {
					return echo.ServeTCP(ctx, ln, o())
				}
				return echo.ServeHTTP(ctx, ln, echo.HTTP{Version: *v, Hostname: env.Host, Finish: server.FinishTimeout})
			})(ctx, slices.Concat(lns, tcp, secure), drain)
		}, nil
	}
}

func grpc(_ *flag.FlagSet, env Environment) func() (service, error) {
	return func() (service, error) { return web(health.Handler(env.Host), env.Log), nil }
}

func calling(fs *flag.FlagSet, env Environment) func() (service, error) {
	o, status := client.Options{Out: env.Result}, 0
	fs.Func("url", "`URL` to call: http, grpc://HOST:PORT or tcp://HOST:PORT (repeatable, called in turn)", func(s string) error {
		o.URLs = append(o.URLs, s)
		return nil
	})
	fs.IntVar(&o.Count, "count", 0, "`calls` until it ends (default: until SIGTERM)")
	fs.Float64Var(&o.Rate, "rate", 0, "`calls` a second (default: one after another)")
	fs.DurationVar(&o.Timeout, "timeout", 10*time.Second, "how `long` a call may take")
	fs.DurationVar(&o.Linger, "linger", 0, "how `long` to go on calling after SIGTERM")
	fs.IntVar(&o.Idle, "idle", 0, "`connections` that are still open when it ends")
	fs.StringVar(&o.Quit, "quit", "", "`URL` to POST to when all is done, as the proxy of a Job's pod wants it if it is an ordinary container")
	fs.IntVar(&status, "exit", 0, "`status` to end with if no call failed")
	return func() (service, error) {
		return func(ctx context.Context, _ []net.Listener, _ time.Duration) error {
			s, err := client.Run(ctx, o)
			switch {
			case err != nil:
				return err
			case s.Failed > 0:
				return fmt.Errorf("%d of %d calls failed", s.Failed, s.Calls)
			case status != 0:
				return Status(status)
			}
			return nil
		}, nil
	}
}

func websockets(*flag.FlagSet, Environment) func() (service, error) {
	return func() (service, error) {
		return func(ctx context.Context, lns []net.Listener, _ time.Duration) error { return websocket.Serve(ctx, lns) }, nil
	}
}

func holding(fs *flag.FlagSet, env Environment) func() (service, error) {
	o := websocket.Options{Out: env.Result}
	fs.StringVar(&o.URL, "url", "", "`URL` to connect to, ws://HOST:PORT/PATH")
	fs.IntVar(&o.Open, "open", 1, "`connections` to hold open until SIGTERM")
	fs.DurationVar(&o.Every, "every", 10*time.Second, "how `long` between messages on a connection")
	fs.DurationVar(&o.Timeout, "timeout", 10*time.Second, "how `long` an answer, or opening a connection, may take")
	return func() (service, error) {
		return func(ctx context.Context, _ []net.Listener, _ time.Duration) error {
			_, err := websocket.Hold(ctx, o)
			return err
		}, nil
	}
}

func sleep(fs *flag.FlagSet, _ Environment) func() (service, error) {
	d := time.Duration(0)
	fs.Func("for", "how `long`, as sleep(1) takes it: 5, 5s, 1.5h, 3650d, infinity (default infinity)", func(s string) (err error) {
		d, err = sleepTime(s)
		return err
	})
	return func() (service, error) {
		return func(ctx context.Context, _ []net.Listener, _ time.Duration) error {
			if d > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, d)
				defer cancel()
			}
			<-ctx.Done()
			return nil
		}, nil
	}
}

// sleepTime reads an argument of sleep(1); 0 is infinity.
func sleepTime(s string) (time.Duration, error) {
	if s == "infinity" || s == "inf" {
		return 0, nil
	}
	number, unit := s, time.Second
	if n := len(s) - 1; n > 0 {
		if u, ok := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}[s[n]]; ok {
			number, unit = s[:n], u
		}
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f < 0 || math.IsNaN(f) {
		return 0, fmt.Errorf("%q is not a time such as 5, 5s, 1.5h, 3650d or infinity", s)
	}
	// Not 0, and not more than fits: a century sleeps as well as forever.
	return max(1, time.Duration(min(f*float64(unit), float64(100*365*24*time.Hour)))), nil
}

// backend says where a bookinfo service is. The original's variables name it; the
// address that the mesh publishes for a workload without a network namespace
// (recognised by BIND_ADDRESS) is dialled, because names do not resolve there.
func backend(env Environment, service string) bookinfo.Backend {
	variable := func(suffix string) string { return env.Getenv(strings.ToUpper(service) + suffix) }
	name := cmp.Or(variable("_HOSTNAME"), service)
	if domain := env.Getenv("SERVICES_DOMAIN"); domain != "" {
		name += "." + domain
	}
	wellKnown := strconv.Itoa(bookinfo.Port)
	port := cmp.Or(variable("_SERVICE_PORT"), wellKnown)
	if host := variable("_SERVICE_HOST"); host != "" && env.Getenv("BIND_ADDRESS") != "" && variable("_HOSTNAME") == "" {
		return bookinfo.Backend{Authority: net.JoinHostPort(name, wellKnown), Address: net.JoinHostPort(host, port)}
	}
	return bookinfo.Backend{Authority: net.JoinHostPort(name, port)}
}
