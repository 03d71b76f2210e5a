"""Who is told what happens: frozen events, and the listeners that show or send them."""
